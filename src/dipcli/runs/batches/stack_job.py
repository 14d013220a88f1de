"""A stack to restore: its pages as files of their own, and the file that the restored pages become."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from dipcli import files, images
from dipcli.errors import DipError, UsageError
from dipcli.images.raster import Raster
from dipcli.images.stacks import Stack
from dipcli.records.job import Job
from dipcli.records.run_files import RECORD
from dipcli.records.run_record import RunRecord, read_record, write_record


@dataclass(frozen=True)
class StackJob:
    """A stack to restore."""

    job: Job  # what was asked for; it names the output
    stack: Stack
    pages: tuple[int, ...]  # which, from 1
    folder: Path  # its run folder
    numbers: range  # of its pages in the batch, from 1

    @property
    def output(self) -> Path:
        """Path of the restored stack."""
        assert self.job.output  # noqa: S101 - for the type checker
        return self.job.output

    def restored_page(self, page: int) -> Path:
        """Path of a restored page."""
        return self.folder / f"page{page:04d}.{self.job.task.result}{self.stack.suffix}"

    def split(self) -> list[tuple[Job, DipError | None]]:
        """Write the pages as files of their own; return a job for each, and why it cannot be restored, or None.

        Raises:
            DipError: if the folder cannot be used.
        """
        if self.folder.is_dir() and any(self.folder.iterdir()) and read_record(self.folder) is None:
            raise UsageError(f"{self.folder} exists and is not from a run: choose another --run-dir.")
        files.make_folder(self.folder)
        job = self.job
        record = RunRecord(input=str(job.source), output=str(self.output), task=job.task.name, finished=False)
        write_record(self.folder / RECORD, record)
        written = images.find_writable(self.stack.suffix).write
        assert written  # noqa: S101 - for the type checker
        times = job.source.stat()
        jobs: list[tuple[Job, DipError | None]] = []
        for number, page in zip(self.numbers, self.pages, strict=True):
            path, wrong = self._page(page), None
            try:
                raster = self.stack.read_page(page - 1)
                plain = Raster(raster.samples, profile=raster.profile, alpha=raster.alpha)
                files.write(path, written(plain))
                os.utime(path, (times.st_atime, times.st_mtime))  # earlier results are not older
            except DipError as error:
                wrong = DipError(f"{job.source}: {error}")
            title = f"{number}/{self.numbers.stop - 1} {job.source.name} page {page}"
            outputs = replace(job.outputs, run_dir=None, pages=None, format=None)
            page_job = replace(job, source=path, output=self.restored_page(page), title=title, outputs=outputs)
            jobs.append((replace(page_job, folder=None, stem=""), wrong))
        return jobs

    def join(self) -> None:
        """Write the restored pages as one file, with the metadata of the stack."""
        read, whole = images.find_writable(self.stack.suffix).read, len(self.pages) == self.stack.count

        def rasters() -> Iterator[Raster]:
            for page in self.pages:
                before = self.stack.read_page(page - 1)
                if page == self.pages[0]:  # the description of the whole is that of the first page
                    before = replace(before, tags=self.stack.read_page(0).tags)
                samples = read(self.restored_page(page).read_bytes()).samples
                (height, width), (old_height, old_width) = samples.shape[:2], before.samples.shape[:2]
                yield replace(before, samples=samples).resized((width / old_width, height / old_height))

        try:
            self.stack.write(self.output, rasters(), len(self.pages), whole)
        except OSError as error:
            raise DipError(f"Cannot write {self.output}: {error.strerror or error}. Repeat the command.") from error

    def remove_folder(self) -> None:
        """Remove what this run has written to its folder, and the folder if nothing else is in it."""
        written = [path for page in self.pages for path in (self._page(page), self.restored_page(page))]
        with suppress(OSError):
            for path in (*written, self.folder / RECORD):
                path.unlink(missing_ok=True)
            self.folder.rmdir()

    def _page(self, page: int) -> Path:
        return self.folder / f"page{page:04d}{self.stack.suffix}"

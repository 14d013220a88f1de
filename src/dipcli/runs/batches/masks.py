"""Files that the task's options name, as masks and guides: one for all images, or a folder with one for each."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from dataclasses import replace
from inspect import Parameter
from pathlib import Path

from dipcli.errors import DipError
from dipcli.images import has_image_suffix
from dipcli.records.job import Job


def match_files(job: Job, inside: Path) -> Job:
    """Replace each folder that an option names by the image in it that is called as the source, but for the suffix.

    Args:
        job: with the options as they were given.
        inside: sub-folder of the source within the folder that was named; its mask is in the same sub-folder.

    Raises:
        DipError: if a folder has no such image, or several.
    """
    matched = dict(job.arguments)
    for name, folder in _named_paths(job):
        if not folder.is_dir():
            continue
        stem, place = job.source.stem, folder / inside
        alike = [path for path in place.glob(f"{glob.escape(stem)}.*") if path.stem == stem and has_image_suffix(path)]
        found = [path for path in alike if path.name == job.source.name] or alike
        if len(found) != 1:
            count = f"{len(found)} images" if found else "no image"
            option = name.replace("_", "-")
            raise DipError(f"--{option} {folder}: there is {count} called {place / stem} there; put in one for it.")
        matched[name] = type(job.arguments[name])(found[0])
    return replace(job, arguments=matched)


def is_named(path: Path, job: Job) -> bool:
    """Whether an option of the job names this image, or a folder that it is in."""
    place = Path(os.path.realpath(path))
    return any(place.is_relative_to(os.path.realpath(named)) for _, named in _named_paths(job))


def _named_paths(job: Job) -> Iterator[tuple[str, Path]]:
    """The files and folders that the task's required options name, with the names of the options.

    Others are words, as `--model alexnet`, even where a folder has that name.
    """
    for argument in job.task.arguments():
        value = job.arguments.get(argument.name)
        if argument.default is Parameter.empty and isinstance(value, str | Path) and os.path.exists(value):
            yield argument.name, Path(value)

"""Schedulers and workers: started on this machine or through Slurm, or found at an address."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
import distributed
import torch
from distributed import Client, Nanny, Security, SpecCluster

from dipcli import files
from dipcli.cluster import sharing as ways
from dipcli.cluster.sharing import Way
from dipcli.errors import DipError, UsageError
from dipcli.records.job import Job
from dipcli.runs.batches.batch import BatchSize
from dipcli.settings.scheduler import Scheduler

LOOPBACK = "127.0.0.1"
ANSWER = "10s"  # that a scheduler may take to answer
JOBS = 10  # of Slurm's, where nobody says how many
QUIET = {
    "distributed.scheduler.worker-saturation": 1.0,  # a picture waits where any worker finds it
    "distributed.scheduler.http.routes": [],  # no dashboard, no pages
    "distributed.worker.http.routes": [],
    "distributed.comm.timeouts.connect": ANSWER,
}
NO_PAGES = {"dashboard": False, "dashboard_address": f"{LOOPBACK}:0"}


@dataclass(frozen=True)
class Site:
    """Where the work is done.

    Attributes:
        client: Dask's.
        threads: of each fit; None where that is the worker's matter.
        wanted: fits at a time of the workers that are to come, as far as that is known.
        together: pictures of one size that a worker fits together.
    """

    client: Any
    threads: int | None
    wanted: int
    together: int = 1


@contextmanager
def opened(
    scheduler: Scheduler, first: Job, pictures: int, batch_size: BatchSize, say: Callable[[str], None]
) -> Iterator[Site]:
    """Scheduler and workers, for as long as they are needed.

    Args:
        scheduler: which.
        first: a picture that is to be restored.
        pictures: how many there are at most.
        batch_size: those of one size that are fitted together.
        say: told how the work is shared out.

    Raises:
        DipError: when it cannot be had.
    """
    threads = first.given.get("threads")
    if batch_size == "auto" and scheduler.kind != "local":
        raise UsageError("--batch-size auto tries this machine, not the workers' elsewhere: give a number.")
    together = batch_size if isinstance(batch_size, int) else 1
    with dask.config.set(QUIET), _silence():
        if scheduler.kind == "address":
            with _client(scheduler.address) as client:
                yield Site(client, threads, 0, together)
        elif scheduler.kind == "slurm":
            jobs = min(scheduler.count or JOBS, pictures)
            with _slurm(jobs, together) as cluster, _client(cluster) as client:
                say(f"Up to {jobs} jobs of Slurm's at once.")
                yield Site(client, threads, jobs * together, together)
        else:
            way, pins = shared_out(scheduler, first, pictures, batch_size, say)
            with _local(way, pins) as cluster, _client(cluster) as client:
                yield Site(client, way.threads, way.fits * way.together, way.together)


def shared_out(
    scheduler: Scheduler, first: Job, pictures: int, batch_size: BatchSize, say: Callable[[str], None]
) -> tuple[Way, list[str]]:
    """How many workers on this machine, with how many threads; and the GPU of each, none where there are none.

    One a GPU. On a CPU as many as were asked for, by `local:4` or `--threads`, else as many as were found to be best.
    How many pictures each fits together is found out where it is not said, on a CPU where that was asked for.
    """
    there, threads, device = ways.cores(), first.given.get("threads"), first.given.get("device", "auto")
    gpus = _gpus() if device in ("auto", "cuda") else []
    wanted = None if batch_size == "auto" or (batch_size is None and gpus) else batch_size or 1
    count = scheduler.count
    if gpus:
        count = count or len(gpus)
    elif threads or device not in ("auto", "cpu"):
        count = count or (max(1, there // threads) if threads and device in ("auto", "cpu") else 1)
    if count:
        count = min(count, pictures)
        given = [Way(count, threads or max(1, there // count))]
    else:
        given = ways.divided(pictures)
    pins = [gpus[each % len(gpus)] for each in range(count)] if gpus and count else []
    return ways.measured(first, given, pictures, say, wanted=wanted, pins=pins), pins


@contextmanager
def _silence() -> Iterator[None]:
    """Inside, Dask says nothing: what matters is said here."""
    names = [name for name in logging.root.manager.loggerDict if name.partition(".")[0] == "distributed"]
    before = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


def _gpus() -> list[str]:
    """The GPUs that may be used, as CUDA_VISIBLE_DEVICES names them."""
    if not torch.cuda.is_available():
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return visible.split(",") if visible else [str(each) for each in range(torch.cuda.device_count())]


@contextmanager
def _local(way: Way, pins: list[str]) -> Iterator[Any]:
    """Workers on this machine. They listen on the loopback alone, and to those alone who have this call's key."""
    security = Security.temporary()
    options = {
        "nthreads": way.together,
        "host": LOOPBACK,
        "protocol": "tls://",
        "security": security,
        "memory_limit": ways.free() // way.fits,
        "preload": ["dipcli.cluster.worker"],
        "silence_logs": logging.CRITICAL,
        **NO_PAGES,
    }
    workers = {
        f"worker {each + 1}": {
            "cls": Nanny,
            "options": options | ({"env": {"CUDA_VISIBLE_DEVICES": pins[each]}} if pins else {}),
        }
        for each in range(way.fits)
    }
    scheduler = {
        "cls": distributed.Scheduler,
        "options": {"host": LOOPBACK, "port": 0, "protocol": "tls://", "security": security, **NO_PAGES},
    }
    with SpecCluster(workers=workers, scheduler=scheduler, security=security, silence_logs=logging.CRITICAL) as cluster:
        yield cluster


@contextmanager
def _slurm(jobs: int, together: int) -> Iterator[Any]:
    """A worker in each of so many jobs, as Dask's own configuration describes them; one that is lost is replaced."""
    from dask_jobqueue import SLURMCluster  # noqa: PLC0415 - only who has Slurm needs it

    if shutil.which("sbatch") is None:
        raise DipError("--scheduler slurm: there is no sbatch here. Call dip where jobs are submitted to Slurm.")
    config = dask.config.get("jobqueue.slurm")
    with tempfile.TemporaryDirectory(
        prefix=".dip-keys-", dir=config.get("shared-temp-directory") or Path.home(), ignore_cleanup_errors=True
    ) as keys:
        try:
            cluster = SLURMCluster(
                cores=together,  # fits at a time, each with all CPUs of the job
                processes=1,
                job_cpu=config.get("job-cpu") or config.get("cores"),
                security=_written(Security.temporary(), Path(keys)),
                scheduler_options=NO_PAGES,
                silence_logs=logging.CRITICAL,
            )
        except (ValueError, RuntimeError) as error:
            said = " ".join(str(error).split())
            raise DipError(
                f"--scheduler slurm: {said}. Describe the jobs in ~/.config/dask/jobqueue.yaml, as docs/scale.md shows."
            ) from error
        with cluster:
            cluster.adapt(minimum_jobs=jobs, maximum_jobs=jobs)
            yield cluster


def _written(security: Any, folder: Path) -> Any:
    """The same keys as files, of which the names alone go to the jobs."""
    paths = {}
    for part in ("tls_ca_file", "tls_client_key", "tls_client_cert"):
        paths[part] = folder / part
        files.write(paths[part], getattr(security, part).encode())
        paths[part].chmod(0o600)
    key, cert = str(paths["tls_client_key"]), str(paths["tls_client_cert"])
    return Security(
        require_encryption=True,
        tls_ca_file=str(paths["tls_ca_file"]),
        **{f"tls_{role}_key": key for role in ("client", "scheduler", "worker")},
        **{f"tls_{role}_cert": cert for role in ("client", "scheduler", "worker")},
    )


@contextmanager
def _client(place: Any) -> Iterator[Any]:
    """A connexion with a scheduler, by its address or that which started it."""
    try:
        client = Client(place, timeout=ANSWER, set_as_default=False, name="dip")
    except (OSError, TimeoutError, ValueError, socket.gaierror) as error:
        said = str(error).strip().partition("\n")[0] or "it does not answer"
        raise DipError(
            f"There is no Dask scheduler at {place} ({said}): start one with dask scheduler, or check the address."
        ) from error
    try:
        yield client
    finally:
        with suppress(OSError, TimeoutError):
            client.close(timeout=5)

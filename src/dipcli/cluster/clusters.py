"""Schedulers and workers: started on this machine or through Slurm, or found at an address."""

from __future__ import annotations

import logging
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import dask
import distributed
import psutil
import torch
from dask.system import CPU_COUNT
from distributed import Client, Nanny, Security, SpecCluster

from dipcli.errors import DipError
from dipcli.fitting.machine import memory
from dipcli.records.job import Job
from dipcli.runs.batches.throughput import prepare_job
from dipcli.settings.scheduler import Scheduler

LOOPBACK = "127.0.0.1"
CONNECT_TIMEOUT = "10s"
DEFAULT_SLURM_JOBS = 10
CONFIG = {
    "distributed.scheduler.http.routes": [],  # no dashboard, no pages
    "distributed.worker.http.routes": [],
    "distributed.comm.timeouts.connect": CONNECT_TIMEOUT,
    # A fit keeps its memory for the next one: that must not make Dask pause or restart the worker.
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": False,
}
NO_DASHBOARD: dict[str, Any] = {"dashboard": False, "dashboard_address": f"{LOOPBACK}:0"}
LOCAL_ATTEMPTS = 2  # of a task whose worker process dies


class Division(NamedTuple):
    """How this machine is divided among fits."""

    fits: int  # at a time, one in each worker
    threads: int  # of the CPU, for each fit
    gpus: tuple[str, ...] = ()  # the GPU of each worker, as CUDA_VISIBLE_DEVICES names it; empty without GPUs


@contextmanager
def connect(
    scheduler: Scheduler, job: Job, images: int, note: Callable[[str], None]
) -> Iterator[tuple[Client, int | None]]:
    """Provide scheduler and workers for at most so many images, which are expected to take as much memory as the job.

    Yields:
        Dask's client, and the CPU threads of each fit, None for all CPUs of its worker.

    Raises:
        DipError: if the scheduler cannot be reached or started.
    """
    threads: int | None = job.given.get("threads")
    place: Any = scheduler.address
    with ExitStack() as stack:
        stack.enter_context(dask.config.set(CONFIG))
        # Dask's log messages are suppressed: what matters to the user is reported as a note or an error.
        stack.callback(logging.disable, logging.root.manager.disable)
        logging.disable(logging.CRITICAL)
        if scheduler.kind == "slurm":
            jobs = min(scheduler.count or DEFAULT_SLURM_JOBS, images)
            place = stack.enter_context(_start_slurm(jobs))
            note(f"Running up to {jobs} Slurm jobs at a time.")
        elif scheduler.kind == "local":
            division = divide_machine(scheduler, job, images)
            threads = division.threads
            units = f"GPUs: {len({*division.gpus})}" if division.gpus else f"CPU threads each: {threads}"
            note(f"Fits at a time: {division.fits}. {units}. Use --scheduler local:N for N fits.")
            place = stack.enter_context(_start_local(division))
        yield stack.enter_context(_open_client(place)), threads


def divide_machine(scheduler: Scheduler, job: Job, images: int) -> Division:
    """Decide how many fits run on this machine at a time, and with how many CPU threads each.

    One on each GPU. On the CPU one on each physical core (with `--threads N`: on N cores), as far as memory suffices,
    because several fits with one thread are faster than one with several: six images of 128x128 took 43.6 s with two
    fits of one thread, 66.1 s with one fit of two threads (two cores of an AMD EPYC, docs/scale.md).
    """
    threads, device = job.given.get("threads"), job.given.get("device", "auto")
    cores = count_cores()
    gpus = visible_gpus() if device in ("auto", "cuda") else []
    fits = scheduler.count or len(gpus)
    if not fits and device in ("auto", "cpu"):
        fits = min(cores // (threads or 1), _count_fits_in_memory(job))
    fits = max(1, min(fits, images))
    pins = tuple(gpus[number % len(gpus)] for number in range(fits)) if gpus else ()
    return Division(fits, threads or max(1, cores // fits), pins)


def count_cores() -> int:
    """Physical cores, of the CPUs that this process may use."""
    cores: int = min(CPU_COUNT, psutil.cpu_count(logical=False) or CPU_COUNT)
    return cores


def visible_gpus() -> list[str]:
    """The GPUs that may be used, as CUDA_VISIBLE_DEVICES names them."""
    if not torch.cuda.is_available():
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return visible.split(",") if visible else [str(number) for number in range(torch.cuda.device_count())]


def _count_fits_in_memory(job: Job) -> int:
    """Fits that fit into memory together."""
    free = memory.read_free(torch.device("cpu")) or 0
    try:
        return int(memory.FREE_MEMORY_FRACTION * free) // prepare_job(job).estimate.whole
    except DipError:
        return 1  # the fit will report what is wrong


@contextmanager
def _start_local(division: Division) -> Iterator[SpecCluster]:
    """Start workers on this machine. They listen on the loopback interface only, under TLS with a key of this call."""
    security = Security.temporary()
    connection = {"host": LOOPBACK, "protocol": "tls://", "security": security, **NO_DASHBOARD}
    options = connection | {
        "nthreads": 1,
        "memory_limit": (memory.read_free(torch.device("cpu")) or 0) // division.fits,  # 0 is no limit
        "preload": ["dipcli.cluster.worker"],
        "silence_logs": logging.CRITICAL,
    }
    shares = [(gpu, str(division.gpus.count(gpu))) for gpu in division.gpus]
    pins = [{"env": {"CUDA_VISIBLE_DEVICES": gpu, memory.GPU_SHARE_VARIABLE: share}} for gpu, share in shares]
    pins = pins or [{}] * division.fits
    workers = {f"worker {number}": {"cls": Nanny, "options": options | pin} for number, pin in enumerate(pins, start=1)}
    scheduler = {
        "cls": distributed.Scheduler,
        "options": connection | {"port": 0, "allowed_failures": LOCAL_ATTEMPTS - 1},
    }
    # SpecCluster drops a worker that is absent some time after a crash; the Nanny is about to replace its process.
    with (
        dask.config.set({"distributed.deploy.lost-worker-timeout": "1 week"}),
        SpecCluster(workers=workers, scheduler=scheduler, security=security, silence_logs=logging.CRITICAL) as cluster,
    ):
        yield cluster


@contextmanager
def _start_slurm(jobs: int) -> Iterator[Any]:
    """Submit jobs with one worker each, as Dask's configuration describes them. A job that ends is replaced."""
    handler = signal.getsignal(signal.SIGINT)
    from dask_jobqueue import SLURMCluster  # noqa: PLC0415 - needed for Slurm only; replaces the handler of SIGINT

    signal.signal(signal.SIGINT, handler)
    if shutil.which("sbatch") is None:
        raise DipError("--scheduler slurm: there is no sbatch here. Run dip where Slurm jobs are submitted.")
    config = dask.config.get("jobqueue.slurm")
    try:
        cluster = SLURMCluster(
            cores=1,  # a fit at a time, with all CPUs of the job
            processes=1,
            job_cpu=config.get("job-cpu") or config.get("cores"),
            worker_extra_args=[*(config.get("worker-extra-args") or []), "--preload", "dipcli.cluster.worker"],
            security=True,  # temporary keys, in files that only this user can read
            shared_temp_directory=config.get("shared-temp-directory") or str(Path.home()),
            scheduler_options=NO_DASHBOARD,
            silence_logs=logging.CRITICAL,
        )
    except (ValueError, RuntimeError) as error:
        message = " ".join(str(error).split())
        raise DipError(
            f"--scheduler slurm: {message}. Describe the jobs in ~/.config/dask/jobqueue.yaml (docs/scale.md)."
        ) from error
    with cluster:
        cluster.adapt(minimum_jobs=jobs, maximum_jobs=jobs)
        yield cluster


@contextmanager
def _open_client(place: Any) -> Iterator[Client]:
    """Connect to a scheduler, by its address or by the cluster that was started with it."""
    try:
        client = Client(place, timeout=CONNECT_TIMEOUT, set_as_default=False, name="dip")
    except (OSError, TimeoutError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0] or "it does not answer"
        raise DipError(
            f"There is no Dask scheduler at {place} ({reason}): start one with dask scheduler, or check the address."
        ) from error
    try:
        yield client
    finally:
        with suppress(OSError, TimeoutError):
            client.close(timeout=5)

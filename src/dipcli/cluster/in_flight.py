"""The pictures that are with the workers, and what becomes of each."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any
from uuid import uuid4

from distributed import CancelledError, Future, KilledWorker

from dipcli.cluster import worker
from dipcli.cluster.clusters import Site
from dipcli.cluster.messages import order
from dipcli.errors import DipError
from dipcli.records.run_record import RunRecord
from dipcli.runs.batches.batch import Batch, Outcome, failed, not_started
from dipcli.runs.display import Display
from dipcli.runs.interrupt import Interrupt

TICK = 0.5  # seconds between two looks at workers and signals
PATIENCE = 10.0  # seconds without a worker after which that is said
SELDOM = 60.0  # and between two times
TRIES = 2  # of a picture that ends its process


class Flight:
    """The pictures that are with the workers.

    Args:
        site: where these are.
        batch: all pictures.

    Attributes:
        out: those that are under way, by their number.
    """

    def __init__(self, site: Site, batch: Batch) -> None:
        self.site, self.batch = site, batch
        self.call = f"dip-{uuid4().hex}"
        self.out: dict[int, Future] = {}
        self.ready: SimpleQueue[int] = SimpleQueue()
        self.tries: Counter[int] = Counter()  # how often each was sent out
        self.ends: Counter[int] = Counter()  # how often each has ended its process
        self.workers: dict[str, int] = {}  # threads by address
        self.looked = self.told_to_end = 0.0
        self.patient_until = monotonic() + PATIENCE

    def room(self) -> bool:
        """Whether another picture is to go out: there are a few more than workers, so that none of these waits."""
        if monotonic() - self.looked > TICK:
            self._look()
        slots = max(self.site.wanted, sum(self.workers.values()))
        return len(self.out) < slots + 1 + slots // 4

    def send(self, number: int, avoid: str = "") -> None:
        """Send a picture out.

        Args:
            number: which.
            avoid: a worker that is not the best for it.
        """
        threads = {} if self.site.threads is None else {"threads": self.site.threads}
        # One that has ended its process may have done so to others that were in it.
        company = self.site.together > 1 and not self.ends[number]
        shared = {"sharing": self.site.together, "company": company}
        told = order(self.batch.entries[number - 1].job, "restore", call=self.call, **threads, **shared)
        others = [each for each in self.workers if each != avoid] if avoid else []
        how: dict[str, Any] = {"workers": others, "allow_other_workers": True} if others else {}
        self.tries[number] += 1
        key = (self.call, number, self.tries[number])
        future = self.site.client.submit(worker.fit, told, key=key, pure=False, **how)
        self.out[number] = future
        future.add_done_callback(lambda _: self.ready.put(number))

    def landed(self, display: Display, interrupt: Interrupt) -> Iterator[Outcome]:
        """What became of those that are back, after a while at most. Some go out again.

        Raises:
            DipError: when the scheduler is gone.
        """
        with suppress(Empty):
            number = self.ready.get(timeout=TICK)
            outcome = self._judged(number, self.out.pop(number), interrupt)
            if outcome:
                yield outcome
            return
        self._look()
        if self.workers:
            self.patient_until = monotonic() + PATIENCE
        elif monotonic() > self.patient_until:
            self.patient_until = monotonic() + SELDOM
            display.note(f"Waiting: no worker has come to {self._address()} yet.")

    def end(self, number: signal.Signals) -> None:
        """Have all fits end with their best pictures so far; said again and again, for workers may come."""
        if monotonic() - self.told_to_end > TICK:
            self._asked(self.site.client.run, worker.end, self.call, int(number), on_error="ignore")
            self.told_to_end = monotonic()

    def stop(self) -> None:
        """Stop all that is out at once, and let go of what the workers keep."""
        if self.site.client.status != "running":
            return
        with suppress(Exception):  # whoever does not hear it finds its task cancelled
            self.site.client.run(worker.stop, self.call, on_error="ignore")
        with suppress(Exception):
            self.site.client.cancel(list(self.out.values()), force=True)

    def _look(self) -> None:
        """See which workers there are."""
        self.workers, self.looked = self._asked(self.site.client.nthreads), monotonic()

    def _judged(self, number: int, future: Future, interrupt: Interrupt) -> Outcome | None:
        """What became of a picture; None where it went out again."""
        try:
            answer = future.result()
        except KilledWorker as error:
            lost = error.allowed_failures + 1
            return failed(self.batch, number, DipError(f"{lost} workers were lost with it: try it alone."))
        except CancelledError:
            raise self._gone() from None
        except ImportError as error:
            raise DipError(f"A worker has no dipcli of this version ({error}): install the same there.") from error
        if told := answer.get("crashed"):
            return self._crashed(number, told, answer["worker"])
        if "error" in answer:
            reason = DipError(answer["error"])
            reason.add_note(f"{answer['worker']}: {answer.get('trace', 'said so')}")
            return failed(self.batch, number, reason)
        if not interrupt.received and ("account" not in answer or answer.get("ended_by")):
            self.send(number)  # its worker was told to go
            return None
        return _outcome(self.batch, number, answer, interrupt)

    def _crashed(self, number: int, told: str, at: str) -> Outcome | None:
        """A picture ended its process: it is tried once more, by another worker where there is one."""
        self.ends[number] += 1
        if self.ends[number] < TRIES:
            self.send(number, avoid=at)
            return None
        way_out = "perhaps memory ran out: try it with --max-memory or " if "SIGKILL" in told else "try it "
        return failed(self.batch, number, DipError(f"The process {told}, twice: {way_out}alone."))

    def _asked(self, ask: Callable[..., Any], *arguments: Any, **how: Any) -> Any:
        """What the scheduler answers.

        Raises:
            DipError: when it is gone.
        """
        if self.site.client.status != "running":  # where it comes back, it knows nothing of what was out
            raise self._gone()
        try:
            return ask(*arguments, **how)
        except (OSError, TimeoutError, CancelledError) as error:
            raise self._gone() from error

    def _gone(self) -> DipError:
        return DipError(
            f"The scheduler at {self._address()} is gone: start it again and repeat the call. What is done is not done "
            "again."
        )

    def _address(self) -> str:
        scheduler = self.site.client.scheduler
        return str(scheduler.address) if scheduler else "its address"


@contextmanager
def at_work(site: Site, batch: Batch) -> Iterator[Flight]:
    """Inside, pictures can be sent out; those that nobody waits for any more are stopped."""
    flight = Flight(site, batch)
    try:
        yield flight
    finally:
        flight.stop()


def _outcome(batch: Batch, number: int, answer: dict[str, Any], interrupt: Interrupt) -> Outcome:
    """Of a picture that was restored, or as much of it as there was time for."""
    if "account" not in answer:
        return not_started(batch, number, interrupt.received or signal.SIGTERM)
    account, ended_by = answer["account"], answer.get("ended_by")
    record = RunRecord.from_json(account | {"worker": answer["worker"]}) if "iterations" in account else None
    return Outcome(
        account["input"],
        account["output"],
        record,
        # Where there is an account of a fit, it was made by a worker that was lost before it could say so.
        skipped="" if "iterations" in account else answer.get("skipped", ""),
        ended_by=signal.Signals(ended_by) if ended_by else None,
        number=number,
        worker=answer["worker"],
        notes=tuple(answer["notes"]),
    )

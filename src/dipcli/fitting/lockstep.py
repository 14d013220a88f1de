"""Several fits at once, each a loop of its own, whose networks are computed in one pass.

A network for a small picture is hundreds of small steps: what starts each of them, on a CPU or a GPU, takes longer than
the step. Several networks of one shape take hardly more when they are computed as one (`dipcli.networks.grouped`).

Each fit runs in a greenlet, a function that can pause in the middle: where it wants its network computed it pauses
until all the others want theirs. So a fit knows nothing of the others. It has its own rule, its own kept picture, its
own collapses and its own files, whoever writes them; where it ends the others go on, and another can take its place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import copy_context
from functools import partial
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar
from weakref import WeakKeyDictionary

import torch
from greenlet import GreenletExit, getcurrent, greenlet
from torch import Tensor, nn

from dipcli.fitting import device as machine
from dipcli.fitting.evaluate import evaluate_alone, render
from dipcli.networks.grouped import can_group, group_networks

T = TypeVar("T")
# What gives the next thing to do, if there is one now; it is told whether nothing else is at work, so that it may wait.
Feed: TypeAlias = Callable[[bool], Callable[[], T] | None]


def evaluate_jointly(network: nn.Module, precision: str, z: Tensor, judge: Callable[[Tensor], Tensor]) -> Tensor:
    """The loss of the network's picture, and its slopes, computed together with those of the other fits in `run`."""
    others = getcurrent().parent
    assert others is not None  # noqa: S101 - what `run` runs has one
    picture = others.switch(_Wish(network, precision, z))
    if picture is None:
        return evaluate_alone(network, precision, z, judge)
    loss = judge(picture)
    loss.backward()  # type: ignore[no-untyped-call]
    slope = others.switch(picture.grad)
    if slope is not None:
        z.backward(slope)  # type: ignore[no-untyped-call]
    return loss


def run(feed: Feed[T], most: int) -> Iterator[T]:
    """Do several things at once, in one thread: they take turns wherever one of them calls `descend`.

    Args:
        feed: gives what is to be done, functions without arguments.
        most: that are at work at a time.

    Yields:
        What they return, as soon as they do. What one of them raises ends all.
    """
    fits: list[_Fit[T]] = []
    passes = _Passes(most)
    try:
        while True:
            while len(fits) < most and (work := feed(not fits)) is not None:
                fits.append(_Fit(work))
                fits[-1].go_on()
                yield from _ended(fits)
            if not fits:
                return
            passes.next(fits)
            yield from _ended(fits)
    finally:
        for each in fits:
            each.drop()


class _Wish(NamedTuple):
    """A network to be computed: what `descend` is given."""

    network: nn.Module
    precision: str
    z: Tensor


class _Fit(Generic[T]):
    """Something under way.

    Attributes:
        said: what it said when it paused, or returned.
    """

    def __init__(self, work: Callable[[], T]) -> None:
        self.paused = greenlet(work)
        self.paused.gr_context = copy_context()
        self.said: Any = None

    def go_on(self, *answer: Any) -> None:
        """Let it go on until it pauses again, or is over."""
        self.said = self.paused.switch(*answer)

    def fail(self, error: Exception) -> None:
        """Raise this where it paused, and let it go on from there."""
        self.said = self.paused.throw(error)

    def drop(self) -> None:
        """End it where it is; it tidies up."""
        if not self.paused.dead:
            self.paused.throw(GreenletExit)


def _ended(fits: list[_Fit[T]]) -> Iterator[T]:
    """The results of those that are over, which are taken out of the list."""
    for each in [each for each in fits if each.paused.dead]:
        fits.remove(each)
        yield each.said


class _Joint:
    """Networks of one shape whose weights lie one behind the other in memory, and the one network that has them all."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        self.networks = networks
        self.whole = group_networks(networks)
        self.weights = [*zip(self.whole.parameters(), *(each.parameters() for each in networks), strict=True)]
        for weight, *own in self.weights:
            for each, part in zip(own, weight.detach().chunk(len(own)), strict=True):
                each.data = part

    def forward(self, wishes: Sequence[_Wish]) -> tuple[Tensor, Tensor]:
        """The pictures one behind the other, shape (1, C, H, W), and all z, likewise."""
        codes = torch.cat([each.z.detach() for each in wishes], dim=1).requires_grad_(wishes[0].z.requires_grad)
        return render(self.whole, wishes[0].precision, codes), codes

    def backward(self, pictures: Tensor, codes: Tensor, slopes: Sequence[Tensor]) -> list[Tensor | None]:
        """From the slopes in the pictures, each (C, H, W), to those in each network's weights, and in each z."""
        for weight, *_ in self.weights:
            weight.grad = None
        pictures.backward(torch.cat(list(slopes))[None])  # type: ignore[no-untyped-call]
        for weight, *own in self.weights:
            if weight.grad is not None:
                for each, part in zip(own, weight.grad.chunk(len(own)), strict=True):
                    each.grad = part
        return [None] * len(slopes) if codes.grad is None else [*codes.grad.chunk(len(slopes), dim=1)]


class _Passes:
    """Computes what fits wish for.

    Args:
        most: networks in a pass; fewer after memory ran out.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.joints: list[_Joint] = []
        self.shapes: WeakKeyDictionary[nn.Module, object] = WeakKeyDictionary()

    def next(self, fits: Iterable[_Fit[Any]]) -> None:
        """Compute each fit's network once, those of one shape together, and let all go on until they wish again."""
        alike: dict[object, list[_Fit[Any]]] = {}
        for each in fits:
            alike.setdefault(self._kind(each.said), []).append(each)
        before, self.joints = self.joints, []
        for group in alike.values():
            left = group
            while left:
                now = left[: self.most]
                if len(now) == 1:
                    now[0].go_on(None)
                elif not self._advanced(now, before):
                    self._give_way(len(now), now[0].said.z.device)
                    continue
                left = left[len(now) :]

    def _kind(self, wish: _Wish) -> object:
        """What is the same of wishes that can be computed together."""
        z, network = wish.z, wish.network
        if network not in self.shapes:
            self.shapes[network] = repr(network) if can_group(network) else id(network)
        return self.shapes[network], wish.precision, z.shape, z.dtype, z.device, z.requires_grad

    def _advanced(self, fits: Sequence[_Fit[Any]], before: Iterable[_Joint]) -> bool:
        """One pass for all of these; False, with nothing changed, where memory ran out."""
        wishes: list[_Wish] = [each.said for each in fits]
        device = wishes[0].z.device
        networks = [each.network for each in wishes]
        joint = next((each for each in before if each.networks == networks), None) or _Joint(networks)
        computed = _unless_full(partial(joint.forward, wishes))
        if computed is None:
            return False
        self.joints.append(joint)
        pictures, codes = computed
        apart = pictures.detach()[0].contiguous().chunk(len(fits))
        for each, picture in zip(fits, apart, strict=True):
            each.go_on(picture.requires_grad_())
        # One may have ended in the middle, or have begun anew: then it wishes for another network already.
        slopes = [
            each.said if isinstance(each.said, Tensor) else torch.zeros_like(picture)
            for each, picture in zip(fits, apart, strict=True)
        ]
        of_codes = _unless_full(partial(joint.backward, pictures, codes, slopes))
        del pictures, codes, computed
        count = len(fits)
        while of_codes is None and count > 1:
            self._give_way(count, device)
            count = self.most
            of_codes = _unless_full(partial(self._piecemeal, wishes, slopes))
        for number, each in enumerate(fits):
            if not isinstance(each.said, Tensor):
                continue
            if of_codes is None:
                each.fail(torch.OutOfMemoryError("out of memory"))
            else:
                each.go_on(of_codes[number])
        return True

    def _give_way(self, count: int, device: torch.device) -> None:
        """Memory ran out in a pass of so many: from now on half as many."""
        self.joints, self.most = [], max(1, count // 2)
        machine.release_memory(device)

    def _piecemeal(self, wishes: Sequence[_Wish], slopes: Sequence[Tensor]) -> list[Tensor | None]:
        """There and back again, so many at a time as there is memory for now."""
        of_codes: list[Tensor | None] = []
        for begin in range(0, len(wishes), self.most):
            part = slice(begin, begin + self.most)
            joint = _Joint([each.network for each in wishes[part]])
            of_codes += joint.backward(*joint.forward(wishes[part]), slopes[part])
        return of_codes


def _unless_full(compute: Callable[[], T]) -> T | None:
    """What it computes; None where memory ran out."""
    try:
        return compute()
    except (MemoryError, RuntimeError) as error:
        if not machine.is_out_of_memory(error):
            raise
    return None

"""Several fits in lockstep, each in a loop of its own, with one pass through the networks for all of them.

A network for a small image consists of hundreds of short operations. On a CPU and on a GPU launching one takes longer
than computing it. Several networks of one shape take little longer when they are computed as one
(`dipcli.networks.grouped`).

Each fit runs in a greenlet, a function that can pause in the middle: where it needs its network computed, it pauses
until all others have reached the same point. So a fit does not know of the others. It has its own rule, averages,
rollbacks and files. When one ends, the others continue, and another can start in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import copy_context
from functools import partial
from typing import Any, Final, Generic, NamedTuple, TypeAlias, TypeVar
from weakref import WeakKeyDictionary

import torch
from greenlet import GreenletExit, getcurrent, greenlet
from torch import Tensor, nn

from dipcli.fitting.machine import memory
from dipcli.fitting.passes.evaluate import evaluate_alone
from dipcli.networks.grouped import can_group, group_networks
from dipcli.networks.prior import render

T = TypeVar("T")
# Returns the next function to run, or None if there is none now. Its argument: whether nothing else is running, so that
# it may wait.
Feed: TypeAlias = Callable[[bool], Callable[[], T] | None]

ALONE: Final = object()  # the answer to a fit whose network is not computed with others: it does that itself


class Request(NamedTuple):
    """A network that a fit needs computed."""

    network: nn.Module
    precision: str
    z: Tensor


def evaluate_jointly(network: nn.Module, precision: str, z: Tensor, compute_loss: Callable[[Tensor], Tensor]) -> Tensor:
    """Compute the loss of the network's output and its gradient, in one pass with the other fits in `run`."""
    scheduler = getcurrent().parent
    assert scheduler is not None  # noqa: S101 - `run` is the parent of each fit
    image = scheduler.switch(Request(network, precision, z))
    if image is ALONE:
        return evaluate_alone(network, precision, z, compute_loss)
    loss = compute_loss(image)
    loss.backward()  # type: ignore[no-untyped-call]
    z_gradient = scheduler.switch(image.grad)
    if z_gradient is ALONE:
        render(network, precision, z)[0].backward(image.grad)  # type: ignore[no-untyped-call]
    elif z_gradient is not None:
        z.backward(z_gradient)  # type: ignore[no-untyped-call]
    return loss


def run(feed: Feed[T], most: int) -> Iterator[T]:
    """Run several functions in one thread; they take turns at each call of `evaluate_jointly`.

    Args:
        feed: returns the functions, which take no arguments.
        most: functions at a time.

    Yields:
        The result of each function when it ends. An exception in one of them ends all.
    """
    fits: list[_Fit[T]] = []
    passes = _Passes(most)
    try:
        while True:
            while len(fits) < most and (function := feed(not fits)) is not None:
                fits.append(_Fit(function))
                fits[-1].resume()
                yield from _remove_ended(fits)
            if not fits:
                return
            passes.run_next(fits)
            yield from _remove_ended(fits)
    finally:
        for fit in fits:
            fit.cancel()


class _Fit(Generic[T]):
    """A running function.

    Attributes:
        message: its request or gradient when it paused, or its result.
    """

    def __init__(self, function: Callable[[], T]) -> None:
        self.greenlet = greenlet(function)
        self.greenlet.gr_context = copy_context()
        self.message: Any = None

    def resume(self, *answer: Any) -> None:
        """Run it until it pauses or ends."""
        self.message = self.greenlet.switch(*answer)

    def cancel(self) -> None:
        """End it where it is, with its cleanup."""
        if not self.greenlet.dead:
            self.greenlet.throw(GreenletExit)


def _remove_ended(fits: list[_Fit[T]]) -> Iterator[T]:
    """Take the functions that have ended out of the list, and yield their results."""
    for fit in [fit for fit in fits if fit.greenlet.dead]:
        fits.remove(fit)
        yield fit.message


class JointNetworks:
    """Networks of one shape, and one network that computes them all: their weights are views of its weights."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        self.networks = networks
        self.whole = group_networks(networks)
        parameters = (network.parameters() for network in networks)
        self.weights = [*zip(self.whole.parameters(), *parameters, strict=True)]
        for weight, *parts in self.weights:
            for part, view in zip(parts, weight.detach().chunk(len(parts)), strict=True):
                part.data = view

    def forward(self, requests: Sequence[Request]) -> tuple[Tensor, Tensor]:
        """Return the images and all z, each concatenated along the channels, shape (1, n C, H, W)."""
        first = requests[0]
        codes = torch.cat([request.z.detach() for request in requests], dim=1).requires_grad_(first.z.requires_grad)
        return render(self.whole, first.precision, codes), codes

    def backward(self, images: Tensor, codes: Tensor, gradients: Sequence[Tensor]) -> Sequence[Tensor | None]:
        """Set the gradients of each network's weights, from those of the images, (C, H, W) each.

        Returns:
            The gradient of each z; None if z is not optimised.
        """
        for weight, *_ in self.weights:
            weight.grad = None
        images.backward(torch.cat(list(gradients))[None])  # type: ignore[no-untyped-call]
        for weight, *parts in self.weights:
            if weight.grad is not None:
                for part, gradient in zip(parts, weight.grad.chunk(len(parts)), strict=True):
                    part.grad = gradient
        return [None] * len(gradients) if codes.grad is None else codes.grad.chunk(len(gradients), dim=1)


class _Passes:
    """Computes the networks of the fits, as many in a pass as memory allows.

    Args:
        most: networks in a pass; halved each time memory runs out.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.joints: list[JointNetworks] = []
        self.structures: WeakKeyDictionary[nn.Module, object] = WeakKeyDictionary()

    def run_next(self, fits: Iterable[_Fit[Any]]) -> None:
        """Compute each fit's network once, those of one shape together, and let the fits run to their next request."""
        groups: dict[object, list[_Fit[Any]]] = {}
        for fit in fits:
            groups.setdefault(self._find_group(fit.message), []).append(fit)
        previous, self.joints = self.joints, []
        for waiting in groups.values():
            while waiting:
                together = waiting[: self.most]
                if len(together) == 1:
                    together[0].resume(ALONE)
                elif not self._run_pass(together, previous):
                    continue
                del waiting[: len(together)]

    def _find_group(self, request: Request) -> object:
        """Return a key that is equal for requests that can be computed together."""
        z, network = request.z, request.network
        if network not in self.structures:
            self.structures[network] = repr(network) if can_group(network) else id(network)
        return self.structures[network], request.precision, z.shape, z.dtype, z.device, z.requires_grad

    def _run_pass(self, fits: Sequence[_Fit[Any]], previous: Iterable[JointNetworks]) -> bool:
        """Run one pass for these fits; return False, with nothing changed, if memory ran out before the losses."""
        requests: list[Request] = [fit.message for fit in fits]
        networks = [request.network for request in requests]
        joint = next((joint for joint in previous if joint.networks == networks), None) or JointNetworks(networks)
        output = self._unless_out_of_memory(partial(joint.forward, requests), requests)
        if output is None:
            return False
        images = output[0].detach()[0].contiguous().chunk(len(fits))
        for fit, image in zip(fits, images, strict=True):
            fit.resume(image.requires_grad_())
        # A fit that failed at its loss has ended, or has started again and requests another network already.
        gradients = [
            fit.message if isinstance(fit.message, Tensor) else torch.zeros_like(image)
            for fit, image in zip(fits, images, strict=True)
        ]
        self.joints.append(joint)
        z_gradients = self._unless_out_of_memory(partial(joint.backward, *output, gradients), requests)
        del output
        for number, fit in enumerate(fits):
            if isinstance(fit.message, Tensor):
                fit.resume(ALONE if z_gradients is None else z_gradients[number])
        return True

    def _unless_out_of_memory(self, compute: Callable[[], T], requests: Sequence[Request]) -> T | None:
        """Return the result; None if memory ran out: then further passes have half as many networks."""
        try:
            return compute()
        except (MemoryError, RuntimeError) as error:
            if not memory.is_out_of_memory(error):
                raise
        # Not in the handler: there the error still keeps the tensors alive.
        self.joints, self.most = [], max(1, len(requests) // 2)
        memory.release(requests[0].z.device)
        return None

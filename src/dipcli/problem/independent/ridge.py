"""Non-local ridge regression: every patch as a linear combination of the patches most similar to it.

The k patches of n pixels that are most similar to a patch form the rows of Y = X + noise. The estimate is Theta Y, with
the k x k matrix Theta that minimises the expected squared error among those whose rows sum to 1:

    Q = X X^T + D,    Theta = I - D (Q^-1 - Q^-1 1 1^T Q^-1 / (1^T Q^-1 1)),

where D is diagonal, with the sum of the noise variances in each patch. Step 1 estimates Q by Y Y^T; step 2 takes X from
the result of step 1. Pixels are the averages of all patches that contain them, with the weights 1 / |theta|^2 (theta:
the row of a patch), the inverse of the noise that is left.

Source:
    Herbreteau, Kervrann, "Towards a unified view of unsupervised non-local methods for image denoising: the NL-Ridge
    approach", ICIP 2022; "A unified framework of non-local parametric methods for image denoising", SIAM J. Imaging
    Sciences 2025.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from dipcli.problem.opponent import from_opponent, make_opponent, to_opponent

GROUPS_AT_ONCE = 256  # groups of patches in memory
BLOCK_SIDE = 128  # pixels; larger images are processed in blocks
START_BLUR, BLUR_REACH = 2.0, 3  # pixels: for the brightness before the first estimate; in standard deviations
OUTSIDE = 1e3  # value beyond the border: such patches are never similar
RELATIVE_JITTER, JITTER = 1e-6, 1e-8  # added to the diagonal of Q, which may be singular; the first per mean


@dataclass(frozen=True)
class RidgeStep:
    """Parameters of one step.

    Attributes:
        patch: side of the patches, pixels.
        count: number of similar patches k, the patch itself among them.
        stride: distance between the patches that are estimated, pixels.
        window: side of the window in which similar patches are searched, odd, pixels.
        blur: standard deviation of a Gaussian blur of the image in which they are searched, pixels; 0 for none.
    """

    patch: int
    count: int
    stride: int
    window: int = 45
    blur: float = 0.0


Stage: TypeAlias = tuple[RidgeStep, ...]


def estimate_by_ridge(
    noisy: Tensor,
    variance: Callable[[Tensor], Tensor],
    stages: tuple[Stage, ...],
    known: Tensor | None = None,
) -> Tensor:
    """Return the estimate of an image.

    The mean of the steps of a stage, with patches of different sizes, is X for the next stage.

    Args:
        noisy: y, shape (C, H, W), with independent noise. Channels are transformed by an orthonormal DCT: for three,
            to the mean and two opponent colours. Similar patches are searched in the first.
        variance: returns the variance of the noise at each value of an estimate of the image, of its shape.
        stages: one after the other; they need patches that fit into the image.
        known: pixels of y to use, shape (H, W); the others must hold an interpolation, which each stage replaces by its
            own estimate. All when None.
    """
    mixing = make_opponent(len(noisy)).to(noisy)
    opponent, estimate = to_opponent(noisy), None
    smooth = blur(noisy, START_BLUR)
    for stage in stages:
        brightness = smooth if estimate is None else from_opponent(estimate)
        variances = torch.einsum("oc,chw->ohw", mixing**2, variance(brightness).expand_as(noisy))
        estimate = torch.stack([estimate_step(opponent, variances, estimate, step) for step in stage]).mean(0)
        if known is not None:
            opponent = torch.where(known, opponent, estimate)
    return noisy if estimate is None else from_opponent(estimate)


def blur(image: Tensor, sigma: float) -> Tensor:
    """Return an image (C, H, W) after a Gaussian blur with mirrored borders."""
    radius = min(round(BLUR_REACH * sigma), *(length - 1 for length in image.shape[1:]))
    taps = torch.exp(-(torch.arange(-radius, radius + 1) ** 2) / (2 * sigma**2)).to(image)
    taps = taps / taps.sum()
    padded = functional.pad(image[:, None], (radius,) * 4, mode="reflect")
    smooth: Tensor = functional.conv2d(functional.conv2d(padded, taps[None, None, None]), taps[None, None, :, None])
    return smooth[:, 0]


def estimate_step(noisy: Tensor, variances: Tensor, pilot: Tensor | None, step: RidgeStep) -> Tensor:
    """Return one step's estimate, shape (C, H, W).

    Args:
        noisy: y; similar patches are searched in its first channel.
        variances: of the noise, of the same shape.
        pilot: X, of the same shape, in which the patches are searched then; None for step 1.
        step: its parameters.
    """
    total, total_weight = torch.zeros_like(noisy), torch.zeros_like(noisy)
    for inside, starts in split_into_blocks(noisy.shape[1:], step):
        sums, weights = _estimate_block(
            noisy[inside], variances[inside], None if pilot is None else pilot[inside], starts, step
        )
        total[inside] += sums
        total_weight[inside] += weights
    return total / total_weight


def split_into_blocks(
    size: tuple[int, ...], step: RidgeStep
) -> Iterator[tuple[tuple[slice, slice, slice], tuple[Tensor, Tensor]]]:
    """Yield parts of an image (C, H, W), with the first rows and columns of the patches to estimate in each.

    Args:
        size: (H, W).
        step: of the estimate. The parts overlap by its window.
    """
    rows, columns = (choose_starts(side - step.patch + 1, step.stride) for side in size)
    per_block = BLOCK_SIDE // step.stride
    margin = step.window // 2
    for block_rows in torch.split(rows, per_block):
        for block_columns in torch.split(columns, per_block):
            top, left = (max(0, int(starts[0]) - margin) for starts in (block_rows, block_columns))
            bottom, right = (int(starts[-1]) + margin + step.patch for starts in (block_rows, block_columns))
            inside = (slice(None), slice(top, bottom), slice(left, right))
            yield inside, (block_rows - top, block_columns - left)


def _estimate_block(
    noisy: Tensor, variances: Tensor, pilot: Tensor | None, starts: tuple[Tensor, Tensor], step: RidgeStep
) -> tuple[Tensor, Tensor]:
    """Return weighted sums of the estimated patches and the sums of the weights, both (C, H, W)."""
    size, side = noisy.shape[1:], step.patch
    positions = [length - side + 1 for length in size]
    shown = (noisy if pilot is None else pilot)[:1]
    groups = find_similar(blur(shown, step.blur) if step.blur else shown, starts, step)
    sums, weights = [], []
    for channel in range(len(noisy)):
        patches = noisy[channel].unfold(0, side, 1).unfold(1, side, 1)
        models = patches if pilot is None else pilot[channel].unfold(0, side, 1).unfold(1, side, 1)
        patch_variances = side**2 * functional.avg_pool2d(variances[channel][None], side, 1).flatten()
        patch_sums = noisy.new_zeros(positions[0] * positions[1], side**2)
        patch_weights = noisy.new_zeros(positions[0] * positions[1])
        for part in torch.split(groups, GROUPS_AT_ONCE):
            places = part // positions[1], part % positions[1]
            group = patches[places].flatten(2)
            model = group if pilot is None else models[places].flatten(2)
            theta = solve_ridge(model, patch_variances[part], noisy=pilot is None)
            weight = 1 / theta.square().sum(2)
            patch_sums.index_add_(0, part.flatten(), (theta @ group * weight[..., None]).flatten(0, 1))
            patch_weights.index_add_(0, part.flatten(), weight.flatten())
        sums.append(functional.fold(patch_sums.T, size, side)[0])
        weights.append(functional.fold(patch_weights.expand(side**2, -1), size, side)[0])
    return torch.stack(sums), torch.stack(weights)


def solve_ridge(model: Tensor, variances: Tensor, *, noisy: bool) -> Tensor:
    """Return Theta of each group, shape (groups, k, k).

    Args:
        model: the patches X of each group, or Y, shape (groups, k, n).
        variances: the diagonal of D, shape (groups, k).
        noisy: whether the model is Y, whose noise stands for D in Q.
    """
    gram = model @ model.mT
    diagonal = gram.diagonal(dim1=1, dim2=2)
    diagonal += RELATIVE_JITTER * diagonal.mean(1, keepdim=True) + JITTER
    if not noisy:
        diagonal += variances
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram))
    row_sums = inverse.sum(2, keepdim=True)
    theta = variances[..., None] * (row_sums @ row_sums.mT / row_sums.sum(1, keepdim=True) - inverse)
    theta.diagonal(dim1=1, dim2=2).add_(1)
    return theta


def find_similar(image: Tensor, starts: tuple[Tensor, Tensor], step: RidgeStep, *, ordered: bool = False) -> Tensor:
    """Return the k nearest patches to each patch that starts at these rows and columns.

    Args:
        image: in which they are compared, shape (C, H, W).
        starts: rows and columns of the first pixels of the patches.
        step: side, k and window.
        ordered: whether the nearest must be first.

    Returns:
        Positions, row times (W - patch + 1) plus column of the first pixel, shape (patches, k).
    """
    height, width = image.shape[1:]
    margin, side = step.window // 2, step.patch
    rows, columns = (start.to(image.device) for start in starts)
    padded = functional.pad(image, (margin,) * 4, value=OUTSIDE)
    sum_rows = _make_box_sums(rows, height, side).to(image)
    sum_columns = _make_box_sums(columns, width, side).to(image)
    distances = image.new_empty(len(rows), step.window, step.window, len(columns))
    for shift in range(step.window):
        moved = padded[:, shift : shift + height].unfold(2, width, 1)  # (C, H, window, W)
        squares, *others = (moved - image[:, :, None]).square_()
        for other in others:
            squares += other
        over_rows = (sum_rows @ squares.flatten(1)).view(-1, step.window, width)
        distances[:, shift] = over_rows @ sum_columns.T
    distances[:, margin, margin] = -1  # itself
    nearest = distances.flatten(1, 2).mT.topk(step.count, largest=False, sorted=ordered).indices
    row = rows[:, None, None] + nearest // step.window - margin
    column = columns[:, None] + nearest % step.window - margin
    return (row * (width - side + 1) + column).flatten(0, 1)


def _make_box_sums(starts: Tensor, length: int, side: int) -> Tensor:
    """Return the matrix that sums `side` values from each start on, shape (starts, length)."""
    offset = torch.arange(length, device=starts.device) - starts[:, None]
    return ((offset >= 0) & (offset < side)).float()


def choose_starts(count: int, stride: int) -> Tensor:
    """Return every stride-th of the positions, and the last."""
    starts = torch.arange(0, count, stride)
    return starts if starts[-1] == count - 1 else torch.cat([starts, torch.tensor([count - 1])])

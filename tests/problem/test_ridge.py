"""Non-local ridge regression."""

from __future__ import annotations

import pytest
import torch

from dipcli.problem.independent import ridge
from dipcli.problem.independent.companion import choose_stages
from dipcli.problem.independent.ridge import RidgeStep, blur, estimate_by_ridge, find_similar, solve_ridge
from dipcli.problem.opponent import make_opponent

STAGES = ((RidgeStep(4, 8, 3, 21),), (RidgeStep(4, 16, 3, 21), RidgeStep(5, 16, 3, 21)))


def texture(channels: int = 3, side: int = 48) -> torch.Tensor:
    """Stripes of period 8 with another phase in each channel: every patch has many equals."""
    x = torch.arange(side) % 8 / 8
    return torch.stack([0.3 + 0.4 * ((x + channel / 8) % 1) for channel in range(channels)])[:, None].repeat(1, side, 1)


def noisy(clean: torch.Tensor, level: float) -> torch.Tensor:
    return clean + level * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))


def error(image: torch.Tensor, clean: torch.Tensor) -> float:
    return float(((image - clean) ** 2).mean())


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_the_transform_of_the_channels_is_orthonormal_and_its_first_row_is_the_mean(size: int) -> None:
    matrix = make_opponent(size)
    assert torch.allclose(matrix @ matrix.T, torch.eye(size), atol=1e-6)
    assert torch.allclose(matrix[0], torch.full((size,), size**-0.5))


def test_theta_is_the_solution_of_the_ridge_regression() -> None:
    model = torch.randn(2, 6, 20, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    variances = torch.linspace(0.5, 2, 6, dtype=torch.float64).expand(2, 6)
    theta = solve_ridge(model, variances, noisy=False)
    assert torch.allclose(theta.sum(2), torch.ones(2, 6, dtype=torch.float64))

    def risk(matrix: torch.Tensor) -> torch.Tensor:
        """Expected squared error of the estimate of each patch."""
        return ((matrix @ model - model) ** 2).sum(2) + (matrix**2 @ variances[..., None])[..., 0]

    for seed in range(5):  # any other matrix whose rows sum to 1 has a larger error
        change = torch.randn(theta.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        change -= change.mean(2, keepdim=True)
        assert (risk(theta + 0.01 * change) > risk(theta)).all()


def test_without_noise_the_image_comes_back() -> None:
    clean = texture()
    estimate = estimate_by_ridge(clean, torch.zeros_like, STAGES)
    assert torch.allclose(estimate, clean, atol=1e-4)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_most_of_the_noise_goes_where_the_image_repeats_itself(channels: int) -> None:
    clean = texture(channels)
    image = noisy(clean, 0.1)
    estimate = estimate_by_ridge(image, lambda values: torch.full_like(values, 0.01), STAGES)
    assert error(estimate, clean) < error(image, clean) / 10


def test_noise_that_depends_on_the_place_is_removed_where_it_is() -> None:
    clean = torch.full((1, 48, 48), 0.5)
    level = torch.full((48, 48), 0.01)
    level[:, 24:] = 0.2
    estimate = estimate_by_ridge(noisy(clean, 1) * level + clean * (1 - level), lambda _: level[None] ** 2, STAGES)
    assert error(estimate[:, :, 24:], clean[:, :, 24:]) < 0.2**2 / 8
    assert error(estimate[:, :, :20], clean[:, :, :20]) < 0.01**2


def test_the_most_similar_patches_are_found_and_the_patch_itself_is_one() -> None:
    image = torch.rand(30, 30, generator=torch.Generator().manual_seed(0))
    image[20:25, 4:9] = image[10:15, 12:17]
    found = find_similar(image[None], (torch.tensor([10]), torch.tensor([12])), RidgeStep(5, 2, 1, 25))
    assert sorted(found[0].tolist()) == [10 * 26 + 12, 20 * 26 + 4]


def test_a_large_image_is_estimated_in_blocks_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    image = noisy(texture(), 0.1)

    def estimate() -> torch.Tensor:
        return estimate_by_ridge(image, lambda values: torch.full_like(values, 0.01), STAGES)

    whole = estimate()
    monkeypatch.setattr(ridge, "BLOCK_SIDE", 15)
    assert torch.allclose(estimate(), whole, atol=1e-4)


def test_unknown_pixels_do_not_matter() -> None:
    image = noisy(texture(), 0.1)
    known = torch.rand(48, 48, generator=torch.Generator().manual_seed(2)) > 0.05
    filled = torch.where(known, image, blur(image, 1.0))
    first = estimate_by_ridge(filled, lambda values: torch.full_like(values, 0.01), STAGES, known)
    assert error(first, texture()) < 0.01 / 8


def test_a_blur_keeps_constants_and_spreads_a_point_as_a_gaussian() -> None:
    assert torch.allclose(blur(torch.full((2, 9, 9), 0.3), 2.0), torch.full((2, 9, 9), 0.3))
    point = torch.zeros(1, 21, 21)
    point[0, 10, 10] = 1
    spread = blur(point, 1.5)[0]
    assert float(spread.sum()) == pytest.approx(1)
    assert float(spread[10, 12] / spread[10, 10]) == pytest.approx(torch.exp(torch.tensor(-4 / (2 * 1.5**2))).item())


def test_strong_noise_needs_larger_patches() -> None:
    weak, strong = choose_stages(10 / 255), choose_stages(75 / 255)
    assert strong[-1][0].patch > weak[-1][0].patch

"""`dip flash`: the guide is the network's input, its brightness is not in the result."""

from __future__ import annotations

from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from command_line import TINY, Dip
from samples import noisy, scene
from skimage import data

from dipcli.errors import DipError, UsageError
from dipcli.images.image import from_array
from dipcli.networks import build
from dipcli.tasks.flash import estimate_shift, flash
from dipcli.tasks.registry import tasks


def pair(height: int = 32, width: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """A dark noisy image and a bright one of the same scene."""
    lit = scene(height, width)
    return noisy((lit * 0.3).astype(np.uint8), 8), lit


def test_the_guide_is_the_networks_input() -> None:
    dark, lit = pair(37, 53)
    case, settings = tasks()["flash"].case(from_array(dark), "balanced", {"guide": lit}, {})
    assert torch.equal(case.problem.guide, torch.from_numpy(from_array(lit).pixels))
    prior = build(settings, case.problem.shape, case.problem.guide)
    top, left = ((have - side) // 2 for have, side in zip(prior.code.shape[2:], (37, 53), strict=True))
    assert torch.equal(prior.code[0, :, top : top + 37, left : left + 53], case.problem.guide), "over the result"


def test_the_paper_preset_is_the_published_method() -> None:
    dark, lit = pair(64, 64)
    case, settings = tasks()["flash"].case(from_array(dark), "paper", {"guide": lit}, {})
    prior = build(settings, case.problem.shape, case.problem.guide)
    assert sum(weights.numel() for weights in prior.network.parameters()) == 2_184_307
    assert (settings.rate, settings.iterations, settings.reg_noise, settings.stop) == (0.1, 600, 0, "none")


@pytest.mark.slow
def test_the_result_has_the_brightness_of_the_dark_image(tmp_path: Path) -> None:
    dark, lit = pair()
    iio.imwrite(tmp_path / "dark.png", dark)
    iio.imwrite(tmp_path / "lit.png", lit)
    result = dip()("flash", tmp_path / "dark.png", "--guide", tmp_path / "lit.png", "--iters", 150, "--network", TINY)
    assert result.exit_code == 0, result.output
    restored = iio.imread(tmp_path / "dark.relit.png").astype(float)
    clean = (scene(32, 40) * 0.3).astype(np.uint8)
    assert abs(restored.mean() - dark.mean()) < 4
    assert ((restored - clean) ** 2).mean() < 0.6 * ((dark.astype(float) - clean) ** 2).mean(), "less noise"


def test_the_result_depends_on_the_guide() -> None:
    from dipcli import flash as restore

    dark, lit = pair()
    options = {"network": TINY, "iterations": 5, "progress": False}
    first, second = (restore(dark, guide=guide, **options).image for guide in (lit, 255 - lit))
    assert not np.array_equal(first, second)


def test_sizes_must_agree() -> None:
    with pytest.raises(DipError, match=r"40x16, the dark one 40x32.*--guide"):
        flash(from_array(pair()[0]), pair()[1][:16])


def test_the_guide_may_be_grey_or_deep() -> None:
    dark, lit = pair()
    for guide in (lit[..., 0], lit.astype(np.uint16) * 257):
        case, settings = tasks()["flash"].case(from_array(dark), "fast", {"guide": guide}, {})
        assert build(settings, case.problem.shape, case.problem.guide).code.shape[1] == (guide.shape[2:] or (1,))[0]


def test_input_guide_needs_a_guide(noisy_png: Path) -> None:
    from dipcli import denoise

    with pytest.raises(UsageError, match="--input guide"):
        denoise(str(noisy_png), input="guide", iterations=1, progress=False)


@pytest.mark.parametrize(("down", "right"), [(0, 0), (3, -5), (-8, 2)])
def test_a_shift_is_estimated_and_reported(down: int, right: int) -> None:
    lit = data.astronaut()[100:260, 100:260]
    dark = noisy((lit**0.8).astype(np.uint8), 5)
    moved = np.roll(lit, (down, right), axis=(0, 1))
    assert estimate_shift(from_array(dark).pixels, from_array(moved).pixels) == pytest.approx((down, right), abs=1)
    remarks = " ".join(flash(from_array(dark), moved).remarks)
    assert ("align" in remarks) == (down != 0)
    if down:
        assert f"{abs(down)} pixels {'lower' if down > 0 else 'higher'}" in remarks


def dip() -> Dip:
    from dipcli.cli.app import app

    return Dip(app)

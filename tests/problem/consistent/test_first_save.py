"""JPEG files that were saved once or twice."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from command_line import Dip
from scipy.ndimage import gaussian_filter

from dipcli import images
from dipcli.problem.consistent.first_save import find_first_save
from dipcli.problem.jpeg import make_encoder


def textured(channels: int = 3) -> PIL.Image.Image:
    """An image with coefficients of many sizes, away from black and white."""
    noise = gaussian_filter(np.random.default_rng(0).normal(size=(160, 176, channels)), (1, 1, 0))
    return PIL.Image.fromarray(np.uint8(128 + 28 * noise / noise.std()).squeeze())


def save(image: PIL.Image.Image, *qualities: int) -> bytes:
    for quality in qualities:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        image = PIL.Image.open(file)
    return file.getvalue()


def find(data: bytes) -> int | None:
    image = images.decode(data)
    found = find_first_save(make_encoder(image), torch.from_numpy(image.pixels))
    return found and found[1]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("qualities", [(10, 90), (30, 75), (50, 90), (75, 95)])
def test_the_quality_of_the_first_save_is_found(channels: int, qualities: tuple[int, int]) -> None:
    assert find(save(textured(channels), *qualities)) == pytest.approx(qualities[0], abs=1)


@pytest.mark.parametrize("qualities", [(10,), (50,), (75,), (90,), (95,), (90, 30), (75, 75)])
def test_nothing_is_found_where_the_last_save_was_the_coarsest(qualities: tuple[int, ...]) -> None:
    assert find(save(textured(), *qualities)) is None


def test_the_intervals_are_those_of_the_first_save() -> None:
    """The image before both saves is in nearly all of them; that before the second is in their middle."""
    original = textured(1)
    image = images.decode(save(original, 20, 92))
    found = find_first_save(make_encoder(image), torch.from_numpy(image.pixels))
    assert found is not None
    first = make_encoder(images.decode(save(original, 20))).coefficients.planes[0]
    assert (found[0].planes[0].levels == first.levels).mean() > 0.99


@pytest.mark.slow
def test_a_file_that_was_saved_twice_is_said_to_be(dip: Dip, tmp_path: Path) -> None:
    for name, qualities in (("once.jpg", (20,)), ("twice.jpg", (20, 92))):
        (tmp_path / name).write_bytes(save(textured(), *qualities))
        rest = ("--preset", "fast", "--iters", 1, "--fusion", "none", "--no-report", "--no-run-dir")
        result = dip("dejpeg", tmp_path / name, *rest)
        assert result.exit_code == 0, result.output
        assert ("saved twice" in result.stderr) == (name == "twice.jpg")

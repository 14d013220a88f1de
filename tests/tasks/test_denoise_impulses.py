"""`dip denoise` on isolated black and white pixels."""

from __future__ import annotations

import numpy as np
import pytest
from samples import scene

from dipcli.images import from_array
from dipcli.problem.independent.impulses import find_impulses
from dipcli.problem.metrics import psnr
from dipcli.tasks.case import Case
from dipcli.tasks.registry import tasks


def add_impulses(image: np.ndarray, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the image (H, W, C) of 8 bits with impulses, and where they are."""
    generator = np.random.default_rng(0)
    hit = generator.random(image.shape[:2]) < fraction
    values = 255 * generator.integers(0, 2, hit.shape)[..., None]
    return np.where(hit[..., None], values, image).astype(np.uint8), hit


def pose(image: np.ndarray, **options: object) -> Case:
    return tasks()["denoise"].case(from_array(image), "fast", {"loss": "l2", **options}, {})[0]


@pytest.mark.parametrize("fraction", [0.05, 0.3, 0.6])
def test_impulses_are_found(fraction: float) -> None:
    clean = scene(96, 96).clip(8, 247)
    damaged, hit = add_impulses(clean, fraction)
    found = find_impulses(from_array(damaged).pixels)
    assert (found & hit).sum() > 0.98 * hit.sum()
    assert (found & ~hit).sum() < 0.01 * hit.size


def test_black_lines_of_the_image_are_no_impulses() -> None:
    clean = scene(96, 96).clip(8, 247)
    clean[0] = clean[:, 50:52] = 0
    damaged, hit = add_impulses(clean, 0.05)
    found = find_impulses(from_array(damaged).pixels)
    lines = np.zeros_like(hit)
    lines[0] = lines[:, 50:52] = True
    assert (found & lines & ~hit).sum() < 0.2 * lines.sum()


def test_the_other_pixels_come_back_if_they_have_no_noise() -> None:
    damaged, hit = add_impulses(scene(64, 64).clip(8, 247), 0.1)
    case = pose(damaged)
    restored = case.image.with_pixels(case.problem.finish(case.problem.visible_companion()).numpy(), case.known).array()
    changed = (restored != damaged).any(axis=2)
    assert changed.sum() < 1.1 * hit.sum()
    assert "filled" in case.remarks[0]


def test_the_noise_of_the_other_pixels_is_removed() -> None:
    clean = scene(96, 96).clip(60, 190)
    noisy = clean + np.random.default_rng(1).normal(0, 15, clean.shape)
    damaged, _ = add_impulses(noisy.clip(1, 254), 0.1)
    case = pose(damaged)
    assert not case.problem.hidden
    level = float(case.remarks[0].split("sigma ")[1])
    assert level == pytest.approx(15, rel=0.15)
    truth = from_array(clean.astype(np.uint8)).pixels
    restored = case.image.with_pixels(case.problem.finish(case.problem.visible_companion()).numpy()).array()
    assert psnr(from_array(restored).pixels, truth) > psnr(from_array(noisy.astype(np.uint8)).pixels, truth) + 3


def test_strong_noise_and_drawings_have_no_impulses() -> None:
    strong = (scene(96, 96) + np.random.default_rng(0).normal(0, 75, (96, 96, 3))).clip(0, 255).astype(np.uint8)
    drawing = np.full((96, 96, 3), 255, np.uint8)
    drawing[::7, ::5] = 0
    for image in (strong, drawing):
        assert not any("isolated" in remark for remark in pose(image).remarks)

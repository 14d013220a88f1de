"""Sentences about a finished run."""

from __future__ import annotations

import pytest

from dipcli.records.run_record import FitRecord, RunRecord, TileRecord
from dipcli.records.summaries import describe_ending


@pytest.mark.parametrize(
    ("outliers", "kept"),
    [((False, False), "averages of 5 to 7"), ((True, False), "average of 7"), ((True, True), "average of 9")],
)
def test_the_kept_averages_are_those_of_the_tiles_without_outliers(outliers: tuple[bool, ...], kept: str) -> None:
    """Even if every fit is an outlier there is a sentence."""
    fits = tuple(
        FitRecord(run=1, seed=0, iterations=10, kept=5 + 2 * tile, decay=0.9, reason="", seconds=1.0, outlier=outlier)
        for tile, outlier in enumerate(outliers)
    )
    tiles = (TileRecord(left=0, top=0, width=8, height=8),) * 2
    record = RunRecord(input="a.png", output="b.png", task="denoise", runs=fits, tiles=tiles, kept=9, iterations=20)
    assert f"kept the {kept}; ended because" in describe_ending(record)[0]

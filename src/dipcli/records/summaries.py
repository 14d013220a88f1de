"""Sentences about a finished run, from its record: how it ended, and how it compares with classical methods."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from dipcli.records.run_record import BaselineRecord, MeasuredResult, Measures, RunRecord
from dipcli.text import format_clock

TIE_DB = 0.05  # smaller differences in PSNR count as equal
SIMILAR_TIME_RATIO = 1.5  # times within this factor count as equal
MIN_TIMED_SECONDS = 1e-3  # shorter times are not measured well


def describe_ending(record: RunRecord) -> list[str]:
    """How a run ended and how good the result is, in sentences."""
    count = record.iterations
    done = f"{count} iteration{'s' if count > 1 else ''} in {format_clock(record.seconds)}"
    kept = [fit.kept for fit in record.runs if record.tiles and not fit.outlier] or [record.kept]
    averages = f"average of {kept[0]}" if min(kept) == max(kept) else f"averages of {min(kept)} to {max(kept)}"
    sentences = [f"{done}, kept the {averages}; ended because {record.reason}."]
    if record.measures:
        results = {**record.baselines, "restored": record.measures}
        figures = ", ".join(f"{name} {_format_psnr(measures)}" for name, measures in results.items())
        sentences.append(f"PSNR to the reference: {figures}.")
    if record.uncertainty:
        most = f"{record.uncertainty_most:.1f}" if record.uncertainty_most is not None else "0.0"
        sentences.append(f"Largest uncertainty {most} of 255: {record.uncertainty}.")
    if record.conclusion:
        sentences.append(record.conclusion)
    return [f"{record.input}: {sentence}" for sentence in sentences]


def describe_machine(record: RunRecord) -> str:
    """The device, precision, threads, parameters, seed and peak memory of a run."""
    memory = record.peak_memory_bytes
    return (
        f"{record.device}, {record.precision}, {record.threads} threads, {record.parameters:,} parameters, "
        f"seed {record.seed}" + (f", peak memory {memory / 2**20:.0f} MiB" if memory else "")
    )


def compare_with_baselines(record: RunRecord, baselines: Sequence[BaselineRecord], skipped: Mapping[str, str]) -> str:
    """State whether the fit was worth it: the best baseline by name, better or worse by how much, and the times.

    `skipped` has the reasons of those without a result, by name.
    """
    if not baselines:
        verdict = "No classical method gave a result to compare with."
    elif record.measures:
        verdict = _judge(record, baselines)
    else:
        times = ", ".join(f"{baseline.name} took {_format_seconds(baseline.seconds)}" for baseline in baselines)
        verdict = (
            f"{_capitalise(times)}, the fit {_format_seconds(record.seconds)}; to see which is nearest to the truth, "
            "give it with --reference."
        )
    return " ".join([verdict, *(f"{_capitalise(name)} was skipped: {reason}." for name, reason in skipped.items())])


def format_table(record: RunRecord) -> list[str]:
    """The result and the baselines in an aligned table, and the comparison; empty if there was none."""
    if record.comparison is None:
        return []
    baselines = record.comparison
    rows: list[tuple[str, MeasuredResult, float, str]] = [("restored", record, record.seconds, "")]
    rows += [(baseline.name, baseline, baseline.seconds, baseline.file or "") for baseline in baselines]
    width = max(len(name) for name, *_ in rows)
    lines = [
        f"  {name:<{width}}{_format_measures(result)}{_format_seconds(seconds):>9}  {file}".rstrip()
        for name, result, seconds, file in rows
    ]
    return [*(lines if baselines else []), f"{record.input}: {record.compared}"]


def _judge(record: RunRecord, baselines: Sequence[BaselineRecord]) -> str:
    best = max(baselines, key=_psnr)
    ours, theirs = _psnr(record), _psnr(best)
    gap = 0.0 if ours == theirs else ours - theirs  # both may be infinite
    ratio = max(record.seconds, MIN_TIMED_SECONDS) / max(best.seconds, MIN_TIMED_SECONDS)
    if 1 / SIMILAR_TIME_RATIO < ratio < SIMILAR_TIME_RATIO:
        speed = "takes about as long"
    else:
        slower = f"takes {_format_ratio(1 / ratio)} times as long"
        speed = f"is {_format_ratio(ratio)} times faster" if ratio > 1 else slower
    if abs(gap) <= TIE_DB:
        return f"On this image {best.name} is as good, within {TIE_DB} dB, and {speed}."
    difference = "free of error" if math.isinf(gap) else f"{abs(gap):.2f} dB better"
    if gap < 0:
        choice = ": use it here" if ratio > 1 / SIMILAR_TIME_RATIO else ""
        return f"On this image {best.name} is {difference} and {speed}{choice}."
    among = f", the best of {len(baselines)} classical methods, which" if len(baselines) > 1 else ", which"
    compared = "" if math.isinf(gap) else f" than {best.name}{among} {speed}"
    return f"On this image the result is {difference}{compared}."


def _format_ratio(ratio: float) -> str:
    """Two significant digits: 2.4, 45, 400, 1,200."""
    rounded = float(f"{ratio:.2g}")
    return f"{rounded:,.0f}" if rounded >= 10 else f"{rounded:.1f}"  # noqa: PLR2004


def _format_measures(result: MeasuredResult) -> str:
    """PSNR and SSIM, aligned, if there is a reference."""
    measures = result.measures
    if measures is None:
        return ""
    psnr = "identical" if measures.psnr is None else f"{measures.psnr:.2f} dB"
    return f"  {psnr:>9}  SSIM {measures.ssim or 0.0:.3f}"


def _psnr(result: MeasuredResult) -> float:
    measures = result.measures
    return math.inf if measures is None or measures.psnr is None else measures.psnr


def _format_seconds(seconds: float) -> str:
    if seconds < 0.1:  # noqa: PLR2004
        return f"{1000 * seconds:.0f} ms"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2f} s"  # noqa: PLR2004


def _capitalise(text: str) -> str:
    return text[:1].upper() + text[1:]


def _format_psnr(measures: Measures) -> str:
    """`23.10 dB (luma 24.78)`; `identical` for an image that equals the reference."""
    if measures.psnr is None:
        return "identical"
    others = {"luma": measures.psnr_y, "unknown pixels": measures.psnr_unknown}
    parts = [f"{name} {value:.2f}" for name, value in others.items() if value]
    return f"{measures.psnr:.2f} dB" + (f" ({', '.join(parts)})" if parts else "")

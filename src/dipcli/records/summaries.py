"""Sentences about a finished run, from its record."""

from __future__ import annotations

from dipcli.records.run_record import Measures, RunRecord
from dipcli.text import format_clock


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


def _format_psnr(measures: Measures) -> str:
    """`23.10 dB (luma 24.78)`; `identical` for an image that equals the reference."""
    if measures.psnr is None:
        return "identical"
    others = {"luma": measures.psnr_y, "unknown pixels": measures.psnr_unknown}
    parts = [f"{name} {value:.2f}" for name, value in others.items() if value]
    return f"{measures.psnr:.2f} dB" + (f" ({', '.join(parts)})" if parts else "")

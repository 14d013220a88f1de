"""Sentences about a finished run, from its record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dipcli.text import format_clock


def describe_ending(account: Mapping[str, Any]) -> list[str]:
    """How a run ended, and how good it is, in sentences."""
    count = account["iterations"]
    done = f"{count} iteration{'s' if count > 1 else ''} in {format_clock(account['seconds'])}"
    kept = [each["kept"] for each in account["runs"] if not each["astray"]] if account["tiles"] else [account["kept"]]
    averages = f"average of {kept[0]}" if min(kept) == max(kept) else f"averages of {min(kept)} to {max(kept)}"
    told = [f"{done}, kept the {averages}; ended because {account['reason']}."]
    if "psnr_ref" in account:
        own = {name: account[key] for name in _PSNRS if (key := f"psnr_ref{name[4:]}") in account}
        results = {**account["baselines"], "restored": own}
        told.append(f"PSNR to the truth: {', '.join(f'{name} {_decibels(of)}' for name, of in results.items())}.")
    if "uncertainty" in account:
        told.append(f"The outputs stray by at most {account['uncertainty_most']:.1f} of 255: {account['uncertainty']}.")
    if account.get("conclusion"):
        told.append(account["conclusion"])
    return [f"{account['input']}: {sentence}" for sentence in told]


_PSNRS = {"psnr": "", "psnr_y": "luma ", "psnr_unknown": "unknown pixels "}


def _decibels(measures: Mapping[str, float | None]) -> str:
    """23.10 dB (luma 24.78); a picture that is the truth itself has no figure."""
    if measures["psnr"] is None:
        return "identical"
    parts = [f"{words}{measures[name]:.2f}" for name, words in _PSNRS.items() if words and measures.get(name)]
    return f"{measures['psnr']:.2f} dB" + (f" ({', '.join(parts)})" if parts else "")


def describe_machine(account: Mapping[str, Any]) -> str:
    """What it ran on."""
    memory = account["peak_memory_bytes"]
    return (
        f"{account['device']}, {account['precision']}, {account['threads']} threads, "
        f"{account['parameters']:,} parameters, seed {account['seed']}"
        + (f", at most {memory / 2**20:.0f} MiB" if memory else "")
    )

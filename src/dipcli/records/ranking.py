"""How the restored picture stands beside its classical rivals, in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

TIE = 0.05  # dB: less than this is no difference
ALIKE = 1.5  # of two times: less than this is none either
QUICKEST = 1e-3  # seconds: what takes less is not timed well


def verdict(account: Mapping[str, Any], answers: Sequence[Mapping[str, Any]], left_out: Mapping[str, str]) -> str:
    """Whether the fit was worth it, as far as that is known: the best rival by name, better or worse, and the times.

    Args:
        account: the run's; `psnr_ref`, where there is a reference, and `seconds` are used.
        answers: of the rivals: `name`, `seconds` and, where there is a reference, `psnr_ref`.
        left_out: rivals without an answer, and why.
    """
    if not answers:
        told = "No classical method has an answer to compare with."
    elif "psnr_ref" in account:
        told = _judged(account, answers)
    else:
        times = ", ".join(f"{each['name']} took {_seconds(each['seconds'])}" for each in answers)
        told = f"{_capital(times)}, the fit {_seconds(account['seconds'])}; which is nearest to the truth only "
        told += "a --reference can tell."
    return " ".join([told, *(f"{_capital(name)} is left out: {why}." for name, why in left_out.items())])


def table(account: Mapping[str, Any]) -> list[str]:
    """Restored picture and rivals below each other, aligned, and the verdict; nothing where none was asked for."""
    if "compared" not in account:
        return []
    answers = account["comparison"]
    own = {"name": "restored", **{key: account[key] for key in ("psnr_ref", "ssim_ref", "seconds") if key in account}}
    widest = max(len(each["name"]) for each in (own, *answers))
    rows = [
        f"  {each['name']:<{widest}}{_measures(each)}{_seconds(each['seconds']):>9}  {each.get('file') or ''}".rstrip()
        for each in (own, *answers)
    ]
    return [*(rows if answers else []), f"{account['input']}: {account['compared']}"]


def _judged(account: Mapping[str, Any], answers: Sequence[Mapping[str, Any]]) -> str:
    best = max(answers, key=lambda each: _decibels(each["psnr_ref"]))
    ours, theirs = _decibels(account["psnr_ref"]), _decibels(best["psnr_ref"])
    gap = 0.0 if ours == theirs else ours - theirs  # both may be infinite
    pace = _pace(ratio := _ratio(account["seconds"], best["seconds"]))
    if abs(gap) <= TIE:
        return f"On this picture {best['name']} comes to the same, within {TIE} dB, and {pace}."
    much = "without any error" if math.isinf(gap) else f"{abs(gap):.2f} dB better"
    if gap < 0:
        choice = ": it is the better choice here" if ratio > 1 / ALIKE else ""
        return f"On this picture {best['name']} is {much} and {pace}{choice}."
    among = f", the best of {len(answers)} classical methods, which" if len(answers) > 1 else ", which"
    compared = "" if math.isinf(gap) else f" than {best['name']}{among} {pace}"
    return f"On this picture the result is {much}{compared}."


def _ratio(fit: float, rival: float) -> float:
    return max(fit, QUICKEST) / max(rival, QUICKEST)


def _pace(ratio: float) -> str:
    """How long a rival takes, by the ratio of the fit's time to its own."""
    if 1 / ALIKE < ratio < ALIKE:
        return "takes about as long"
    return f"is {_number(ratio)} times faster" if ratio > 1 else f"takes {_number(1 / ratio)} times as long"


def _number(ratio: float) -> str:
    """Two digits that count: 2.4, 45, 400, 1,200."""
    rounded = float(f"{ratio:.2g}")
    return f"{rounded:,.0f}" if rounded >= 10 else f"{rounded:.1f}"  # noqa: PLR2004


def _measures(each: Mapping[str, Any]) -> str:
    """PSNR and SSIM, aligned, where they are known."""
    if "psnr_ref" not in each:
        return ""
    psnr = "identical" if each["psnr_ref"] is None else f"{each['psnr_ref']:.2f} dB"
    return f"  {psnr:>9}  SSIM {each['ssim_ref']:.3f}"


def _decibels(psnr: float | None) -> float:
    return math.inf if psnr is None else psnr


def _seconds(seconds: float) -> str:
    if seconds < 0.1:  # noqa: PLR2004
        return f"{1000 * seconds:.0f} ms"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2f} s"  # noqa: PLR2004


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]

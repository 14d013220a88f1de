"""Write the table of docs/images.md from the table of formats: python docs/make_formats.py [--check]."""

import sys
from pathlib import Path

from dipcli.images.formats import METADATA, Format, formats

PAGE = Path(__file__).with_name("images.md")
START, END = "<!-- the table of formats -->\n", "<!-- its end -->\n"
DEPTHS = {"uint8": "8", "uint16": "16", "uint32": "32, 64, signed or not", "float32": "float"}


def describe(row: Format) -> str:
    """Return one row of the page's table."""
    name = f"{row.name}: {' '.join(f'`{suffix}`' for suffix in row.suffixes)}"
    if not row.write:
        return f"| {name} | only read | | | | |"
    depths = ", ".join(DEPTHS[dtype] for dtype in row.dtypes if dtype in DEPTHS)
    lost = ", ".join(text for attribute, text in METADATA.items() if attribute not in row.keeps)
    channels = "any number" if row.max_channels is None else str(row.max_channels)
    loss = "without loss" if row.lossless else "**with loss**"
    return (
        f"| {name} | {loss} | {depths} | {channels} | {'kept' if row.alpha else '**refused**'} | {lost or 'nothing'} |"
    )


def make() -> str:
    """Return the page with its table made again."""
    head, _, rest = PAGE.read_text().partition(START)
    _, _, tail = rest.partition(END)
    lines = [
        "| format | written | bits | colour channels | transparency | metadata that is lost |",
        "|---|---|---|---|---|---|",
    ]
    lines += [describe(row) for row in formats() if row.suffixes]
    named = ", ".join(row.name for row in formats() if not row.suffixes)
    return f"{head}{START}\n" + "\n".join(lines) + f"\n\nRecognised, and refused with advice: {named}.\n\n{END}{tail}"


if __name__ == "__main__":
    if "--check" not in sys.argv:
        PAGE.write_text(make())
    elif make() != PAGE.read_text():
        sys.exit("docs/images.md is not the table of formats: run python docs/make_formats.py")

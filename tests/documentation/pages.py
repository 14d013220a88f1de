"""What the documents hold: commands, Python, links, headings. Read as GitHub reads them, as far as we write them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "examples/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
# A span within a line that begins like this may be a whole command.
PROGRAM = re.compile(r"(dip|python3?|bash|pipx?|cat|for|\.venv/bin/\S+) ")
SHELLS = ("sh", "bash", "shell")


@dataclass(frozen=True)
class Piece:
    """Something that can be run.

    Attributes:
        where: the document and the line.
        text: of it, one line or several.
        kind: `line` of a block of commands, `script` (a fenced block of shell), `span` within a sentence, `python`.
        block: number of the line in which its block begins; 0 of a span.
    """

    where: str
    text: str
    kind: str
    block: int = 0


def pieces(path: Path) -> list[Piece]:
    """All that looks as if it could be run."""
    lines = path.read_text(encoding="utf-8").splitlines()
    name = str(path.relative_to(ROOT))
    found: list[Piece] = []
    for first, language, content in _blocks(lines):
        if language == "python":
            found.append(Piece(f"{name}:{first}", "\n".join(content), "python", first))
        elif language in SHELLS:
            found.append(Piece(f"{name}:{first}", "\n".join(content), "script", first))
        elif language in ("", "console"):
            for number, line in enumerate(content, first):
                if line.strip() and (language == "" or line.startswith("$ ")):
                    found.append(Piece(f"{name}:{number}", line.removeprefix("$ ").strip(), "line", first))
    for number, line in enumerate(prose(lines), 1):
        spans = re.findall(r"`([^`]+)`", line)
        found += [Piece(f"{name}:{number}", span, "span") for span in spans if PROGRAM.match(span)]
    return found


def _blocks(lines: list[str]) -> Iterator[tuple[int, str, list[str]]]:
    """Blocks of code: the number of the first line, the language if it is fenced and has one, and the lines."""
    at = 0
    while at < len(lines):
        start = at
        if lines[at].startswith("```"):
            at += 1
            while not lines[at].startswith("```"):
                at += 1
            yield start + 2, lines[start][3:].strip(), lines[start + 1 : at]
        elif lines[at].startswith("    ") and (at == 0 or not lines[at - 1].strip()):
            while at < len(lines) and lines[at].startswith("    "):
                at += 1
            yield start + 1, "", [line[4:] for line in lines[start:at]]
        at += 1


def prose(lines: list[str]) -> list[str]:
    """The same lines, those of blocks of code empty."""
    kept = list(lines)
    for first, _, content in _blocks(lines):
        kept[first - 1 : first - 1 + len(content)] = [""] * len(content)
    return kept


def links(path: Path) -> list[str]:
    """Where links and pictures lead to."""
    lines = prose(path.read_text(encoding="utf-8").splitlines())
    return re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "", "\n".join(lines)))


def anchors(path: Path) -> set[str]:
    """What can follow a # in a link to the document: its headings as GitHub writes them."""
    lines = prose(path.read_text(encoding="utf-8").splitlines())
    headings = [line.lstrip("#").strip() for line in lines if re.match(r"#{1,6} ", line)]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def options(path: Path) -> set[str]:
    """Long options that are named anywhere in it."""
    return set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", path.read_text(encoding="utf-8")))

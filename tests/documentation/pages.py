"""Read commands, Python, links and headings from the documents, as GitHub does for the Markdown that we use."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "examples/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
# A code span in a sentence that starts like this may be a whole command.
PROGRAM = re.compile(r"(dip|python3?|bash|pipx?|cat|for|\.venv/bin/\S+) ")
SHELLS = ("sh", "bash", "shell")


@dataclass(frozen=True)
class Snippet:
    """A piece of a document that can be run.

    Attributes:
        where: document and line number.
        text: one line or several.
        kind: `line` of a block of commands, `script` (a fenced shell block), `span` in a sentence, or `python`.
        block: line number at which its block starts; 0 for a span.
    """

    where: str
    text: str
    kind: str
    block: int = 0


def snippets(path: Path) -> list[Snippet]:
    """Return everything in a document that may be a command or a script."""
    lines = path.read_text(encoding="utf-8").splitlines()
    name = str(path.relative_to(ROOT))
    found: list[Snippet] = []
    for first, language, content in _blocks(lines):
        if language == "python":
            found.append(Snippet(f"{name}:{first}", "\n".join(content), "python", first))
        elif language in SHELLS:
            found.append(Snippet(f"{name}:{first}", "\n".join(content), "script", first))
        elif language in ("", "console"):
            for number, line in enumerate(content, first):
                if line.strip() and (language == "" or line.startswith("$ ")):
                    found.append(Snippet(f"{name}:{number}", line.removeprefix("$ ").strip(), "line", first))
    for number, line in enumerate(prose(lines), 1):
        spans = re.findall(r"`([^`]+)`", line)
        found += [Snippet(f"{name}:{number}", span, "span") for span in spans if PROGRAM.match(span)]
    return found


def _blocks(lines: list[str]) -> Iterator[tuple[int, str, list[str]]]:
    """Yield each code block: number of its first line, its language if it is fenced and has one, and its lines."""
    position = 0
    while position < len(lines):
        start = position
        if lines[position].startswith("```"):
            position += 1
            while not lines[position].startswith("```"):
                position += 1
            yield start + 2, lines[start][3:].strip(), lines[start + 1 : position]
        elif lines[position].startswith("    ") and (position == 0 or not lines[position - 1].strip()):
            while position < len(lines) and lines[position].startswith("    "):
                position += 1
            yield start + 1, "", [line[4:] for line in lines[start:position]]
        position += 1


def prose(lines: list[str]) -> list[str]:
    """Return the lines with those of code blocks empty."""
    kept = list(lines)
    for first, _, content in _blocks(lines):
        kept[first - 1 : first - 1 + len(content)] = [""] * len(content)
    return kept


def links(path: Path) -> list[str]:
    """Return the targets of links and images."""
    lines = prose(path.read_text(encoding="utf-8").splitlines())
    return re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "", "\n".join(lines)))


def anchors(path: Path) -> set[str]:
    """Return what can follow a # in a link to the document: its headings as GitHub writes them."""
    lines = prose(path.read_text(encoding="utf-8").splitlines())
    headings = [line.lstrip("#").strip() for line in lines if re.match(r"#{1,6} ", line)]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def options(path: Path) -> set[str]:
    """Return the long options named anywhere in a document."""
    return set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", path.read_text(encoding="utf-8")))

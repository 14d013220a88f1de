"""Every command in the documents is run, as it stands, by these tests or by CI; links lead somewhere, options exist.

A command runs in a folder of its own where the pictures, masks and folders that it names lie (`stage.py`). A plain line
of `dip` runs in this process, as scripts of the repository do and the processes that these start, which saves the
two seconds that PyTorch takes to import; what needs a shell has one, with `dip` on its PATH. Two things make it quick.
Fits have few iterations and narrow networks, in every process: `hurry.py` says how. And behind what is said to a
benchmark, which has sizes of its own, the same options follow once more with smaller values: `LESS` has the rules.
"""

from __future__ import annotations

import io
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from signal import SIGINT
from typing import Any

import imageio.v3 as iio
import pytest
from documentation import scratch_folder as stage
from documentation.fast_fits import hurried
from documentation.pages import DOCUMENTS, ROOT, Piece, anchors, links, options, pieces

from dipcli.runs.interrupt import Interrupt
from dipcli.tasks import registry

# No command, though it is set like one.
FORMULA = "minimise over theta"
# Run by neither, and why that is enough.
ELSEWHERE = {
    "bash .ci/run": "it is what CI runs",
    "pipx install .": "it makes an environment and calls pip with these arguments, as the first command, which CI runs",
    "HYPOTHESIS_PROFILE=nightly .venv/bin/pytest tests/cli/test_any_file.py": "by night; the suite makes fewer files",
    "DIP_KILLS=20 .venv/bin/pytest tests/records/test_checkpoints.py": "by night; the suite kills a run less often",
    "DIP_CLUSTER=40 .venv/bin/pytest tests/cluster/test_cluster.py": "by night; the suite has fewer pictures",
    ".venv/bin/pip install -c constraints.txt '.[cluster]'": "the command that CI installs with has that extra too",
    "dask scheduler --host 10.0.0.1": "test_cluster.py starts one on this machine",
    "CUDA_VISIBLE_DEVICES=0 dask worker tcp://10.0.0.1:8786": "likewise",
    "dip denoise folder/ -o restored/ --scheduler tcp://10.0.0.1:8786": "test_cluster.py asks the one on this machine",
    "dip denoise folder/ -o restored/ --scheduler slurm": "there is no Slurm here; test_cluster.py has what is without",
}
# What CI takes out of a document, and runs to the letter.
BY_CI = re.findall(r"grep -m1 -oE '([^']+)' \S+\.md", (ROOT / ".ci" / "run").read_text())
# Behind these words of a line it is a shell's.
SHELL = re.compile(r"[|<>;&*?$`]|^[A-Z_]+=|^\.venv/")
PICTURED = (".png", ".tif")


def _less(factor: int, least: int) -> Callable[[str], str]:
    return lambda sizes: ",".join(str(max(least, int(size) // factor)) for size in sizes.split(","))


# By benchmark and option: what the value becomes. In the place of None it is added where it was not said.
LESS: dict[str, dict[str, tuple[str | None, Callable[[str], str]]]] = {
    "frontier.py": {"--iterations": ("20", str)},
    "speed.py": {
        "--sizes": (None, _less(8, 64)),
        "--iterations": ("1", lambda _: "1"),
        "--rounds": ("1", lambda _: "1"),
        "--psnr": (None, lambda _: "3"),
    },
    "stopping.py": {
        "--pictures": ("house,f16", lambda names: ",".join(names.split(",")[:2])),
        "--jury": (None, lambda _: "6"),
    },
    "scale.py": {
        "--ways": (None, lambda _: "one,local:2"),
        "--count": (None, _less(8, 2)),
        "--side": (None, _less(2, 32)),
        "--iterations": (None, _less(20, 3)),
        "--seconds": ("5", lambda _: "0.1"),
    },
    "rivals.py": {},
    "tiles.py": {
        "--sizes": (None, _less(8, 64)),
        "--side": (None, _less(8, 192)),
        "--tile": (None, _less(8, 128)),
        "--iterations": ("2", lambda _: "2"),
    },
}


def _all() -> list[Piece]:
    """What can be run, each once; a block of commands for scripts is one, for they build on each other."""
    found: dict[str, Piece] = {}
    for path in DOCUMENTS:
        blocks: dict[int, list[Piece]] = {}
        for piece in pieces(path):
            if piece.kind == "line" and piece.text.startswith("python "):
                blocks.setdefault(piece.block, []).append(piece)
            elif not _is_no_call(piece):
                found.setdefault(_bare(piece.text), piece)
        for block in blocks.values():
            text = "\n".join(each.text for each in block)
            found.setdefault(text, Piece(block[0].where, text, "line"))
    return list(found.values())


def _bare(text: str) -> str:
    """Without the comment behind it."""
    return text if "\n" in text else re.sub(r"\s+# .*", "", text)


def _is_no_call(piece: Piece) -> bool:
    """The formula, a synopsis, or the mention of a command in a sentence."""
    if piece.text.startswith(FORMULA) or "[OPTIONS]" in piece.text:
        return True
    if piece.kind != "span":
        return False
    words = piece.text.split()
    if words[0] == "dip":
        return not stage.whole(words[1:]) or bool(re.search(r"\b[A-Z]{3,}\b", piece.text))
    return "…" in piece.text or "..." in piece.text


PIECES = _all()


class Output(io.TextIOWrapper):
    """Takes what is printed."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8")

    def text(self) -> str:
        self.flush()
        return self.buffer.getvalue().decode()  # type: ignore[attr-defined,no-any-return]


def call(words: list[str]) -> tuple[int, str, str]:
    """`dip ...` or `python script ...` in this process: exit code, standard output, standard error."""
    out, err = Output(), Output()
    before, known = (sys.argv, sys.path[:], dict(sys.modules)), dict(registry.DECLARED)
    code: Any = 0
    try:
        with redirect_stdout(out), redirect_stderr(err):
            if words[0] == "dip":
                sys.argv = words
                runpy.run_module("dipcli", run_name="__main__", alter_sys=False)
            else:
                sys.argv = words[1:]
                sys.path.insert(0, str(Path(words[1]).parent.absolute()))
                runpy.run_path(words[1], run_name="__main__")
    except SystemExit as ended:
        code = ended.code or 0
        if isinstance(code, str):
            err.write(code)
            code = 1
    finally:
        sys.argv, sys.path[:], modules = before
        for name in set(sys.modules) - set(modules):
            place = getattr(sys.modules[name], "__file__", None) or ""
            if Path.cwd() in Path(place).parents:
                del sys.modules[name]  # the next script may mean another one of that name
        registry.DECLARED.clear()
        registry.DECLARED.update(known)
    return code, out.text(), err.text()


def _started(run: Callable[..., Any]) -> Callable[..., Any]:
    """`subprocess.run`, but Python with `dip` or a script of ours stays in this process."""

    def here(command: list[Any], **how: Any) -> Any:
        words = [str(each) for each in command]
        ours = words[0] == sys.executable and (words[1:3] == ["-m", "dipcli"] or Path(words[1]).suffix == ".py")
        if not ours:
            return run(command, **how)
        with chdir(how.get("cwd") or "."):
            code, out, err = call(["dip", *words[3:]] if words[1] == "-m" else ["python", *words[1:]])
        assert not (how.get("check") and code), err
        return subprocess.CompletedProcess(words, code, out, err)

    return here


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    with hurried():
        yield


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The one that a command runs in; whatever it starts is quick too, and finds `dip`."""
    here, site = tmp_path / "here", tmp_path / "site"
    here.mkdir()
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        f"import sys\nsys.path.append({str(ROOT / 'tests')!r})\n"
        "from documentation import fast_fits\nfast_fits.in_every_process()\n"
    )
    programs = Path(sys.executable).parent
    (here / ".venv").mkdir()
    (here / ".venv" / "bin").symlink_to(programs)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")])))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(here))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "1")  # as Slurm does in a job of an array
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "0")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(subprocess, "run", _started(subprocess.run))
    monkeypatch.chdir(here)
    return here


@pytest.mark.parametrize("piece", PIECES, ids=lambda piece: f"{piece.where}: {piece.text[:60]}")
def test_every_command_of_the_documents_works_as_it_stands(
    piece: Piece, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = _bare(piece.text)
    if any(re.fullmatch(pattern, text) for pattern in BY_CI) or any(text.startswith(each) for each in ELSEWHERE):
        return
    _run(text, piece.kind, folder, monkeypatch)


def _run(text: str, kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the way that suits it."""
    if kind == "python":
        _run_python(text, folder)
    elif text.startswith("python "):
        _run_scripts(text.splitlines(), folder)
    elif kind == "script" or SHELL.search(re.sub(r"'[^']*'", "", text)) or "--install" in text:
        _run_in_a_shell(text, folder)
    else:
        assert text.startswith("dip "), f"no rule says how to run this: {text}"
        _run_dip(shlex.split(text), folder, monkeypatch)


def _run_dip(words: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process; what it says it wrote is there, a picture or figure for each that was given."""
    name, given = stage.parsed(words[1:])
    stage.set_for_dip(folder, words[1:])
    runs = stage.runs_of(name, given)
    for each in runs:
        _leave_a_run(each, monkeypatch, cut_short=name == "resume")
    restored = stage.read_by(words[1:])
    pictures = [each for image in restored for each in _meant(folder, str(image))]
    code, out, err = call(words)
    assert code in ((0, 1) if name == "doctor" else (0,)), err  # it ends in 1 where the machine is ill
    assert out.strip()
    if not restored and not runs:
        return
    written = [json.loads(line)["output"] for line in out.splitlines()] if given.get("as_json") else out.splitlines()
    figures = sum(bool(given.get(each)) for each in ("curves", "sheet"))
    assert len(written) == (len(pictures) or len(runs)) + figures
    for each in written:
        assert iio.imread(each).size if stage.SUFFIX.search(each) else Path(each).stat().st_size
    for each in filter(None, map(given.get, ("output", "uncertainty"))):
        assert Path(each).is_dir() if str(each).endswith("/") else Path(each).stat().st_size
    for run in folder.rglob("*.dip"):
        assert json.loads((run / "run.json").read_text())["finished"]
        assert len((run / "log.csv").read_text().splitlines()) > 1
        assert bool(given.get("snapshot_at")) == (run / "snapshots" / "000001.png").exists()


def _meant(folder: Path, name: str) -> list[Path]:
    """The pictures that an argument means."""
    if "*" in name:
        return list(folder.glob(name))
    place = folder / name
    return [each for each in place.rglob("*") if each.suffix in PICTURED] if place.is_dir() else [place]


def _leave_a_run(run: Path, monkeypatch: pytest.MonkeyPatch, *, cut_short: bool) -> None:
    """A run's folder, or a folder with a run in it; of one that somebody ended with Ctrl-C if it is to go on."""
    source, output = "damaged.png", f"{run.stem}.png" if run.suffix == ".dip" else f"{run}/"
    stage.picture(Path(source))

    def pressed(self: Interrupt) -> str | None:
        self.received = self.received or SIGINT
        return asked(self)

    asked = Interrupt.reason
    with monkeypatch.context() as patch:
        if cut_short:
            patch.setattr(Interrupt, "reason", pressed)
        code, _, err = call(["dip", "denoise", source, "-o", output, "--log-every", "1"])
    assert code == (130 if cut_short else 0), err
    assert (run / "checkpoint.pt").exists() == cut_short


def _run_scripts(lines: list[str], folder: Path) -> None:
    """In this process, one after the other; each says something, and leaves what it was told to."""
    for line in lines:
        words = shlex.split(line, comments=True)
        stage.set_for_script(folder, words[2:])
        code, out, err = call(words + _smaller(words))
        assert code == 0, err
        told = re.findall(r"--out (\S+)|-o (\S+)", line)
        assert out.strip() or "make_cli" in line, line
        for each in filter(None, sum(told, ())):
            assert Path(each).exists(), line
        if table := [row for row in out.splitlines() if row.startswith("| ")]:
            assert len(table) > 1, "more than its head"
        assert table or "--table" not in words


def _smaller(words: list[str]) -> list[str]:
    """The same options again with smaller values, which go before the others."""
    further: list[str] = []
    for option, (added, smaller) in LESS.get(Path(words[1]).name, {}).items():
        given = words[words.index(option) + 1] if option in words else added
        if given is not None:
            further += [option, smaller(given)]
    return further


def _run_python(text: str, folder: Path) -> None:
    for name in re.findall(r"\"([^\"]+)\"", text):
        if stage.SUFFIX.search(name):
            stage.picture(folder / name)
    with redirect_stderr(Output()):
        exec(compile(text, "document", "exec"), {"__name__": "__main__"})  # noqa: S102 - that is what it is for


def _run_in_a_shell(text: str, folder: Path) -> None:
    """By bash, which stops at the first failure; whatever it redirects its output to is there."""
    stage.set_for_shell(folder, text)
    for program in re.findall(r"(?:^|[|;] *)([a-z_]+)\b(?! *=)", text):
        known = shutil.which(program) or program in ("for", "do", "done")
        if not known:
            pytest.skip(f"there is no {program} here")
    if ".venv/bin/pre-commit" in text:
        subprocess.run(["git", "init", "-q"], check=True)
        shutil.copy(ROOT / ".pre-commit-config.yaml", folder)
    ended = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f"{text}\nexit $?"], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr or ended.stdout
    for each in re.findall(r">\s*(\S+)", text):
        assert Path(each).stat().st_size
    if "-o" not in text and "dip denoise" in text:
        assert list(folder.glob("*.denoised.png"))


def test_what_is_run_elsewhere_is_in_the_documents() -> None:
    for pattern in BY_CI:
        assert any(re.fullmatch(pattern, piece.text) for piece in PIECES), pattern
    for text in ELSEWHERE:
        assert any(piece.text.startswith(text) for piece in PIECES), text
    for text in ELSEWHERE:
        for variable, file in re.findall(r"([A-Z_]+)=\S+ .*(tests/[\w/]+\.py)", text):
            assert (ROOT / file).exists()
            assert any(variable in path.read_text() for path in (ROOT / file, ROOT / "tests" / "conftest.py"))
    assert any(FORMULA in path.read_text() for path in DOCUMENTS)


def test_nothing_that_begins_with_dip_is_passed_over() -> None:
    """Found in another way: every line of a block, and every span that has a picture to read."""
    known = {piece.text for piece in PIECES}
    for path in DOCUMENTS:
        text = path.read_text()
        lines = re.findall(r"^ {4}(dip .*)$", text, re.MULTILINE)
        spans = re.findall(r"`(dip \w+ [\w/]+\.(?:png|jpg)[^`]*)`", text)
        for each in lines + spans:
            assert _bare(each) in {_bare(other) for other in known}, f"{path.name}: {each}"


@pytest.mark.parametrize(
    "text", ["frobnicate noisy.png", "dip denoise missing.png --iters 0", "dip denoise noisy.png --tiles 4"]
)
def test_a_command_that_does_not_work_is_found(text: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AssertionError):
        _run(text, "line", folder, monkeypatch)


# Options of other programs, and whose.
FOREIGN = {
    "--pip-args": "pipx",
    "--extra-index-url": "pip",
    "--hypothesis-show-statistics": "pytest",
    "--array": "sbatch",
    "--cpus-per-task": "sbatch",
    "--host": "dask",
    "--no-dashboard": "dask",
    "--nthreads": "dask",
    "--no-cache-dir": "pip",
}


def test_every_option_that_is_named_exists() -> None:
    known = options(ROOT / "docs" / "cli.md") | set(FOREIGN)
    for script in (path for name in ("benchmarks", "docs", "examples") for path in (ROOT / name).glob("*.py")):
        known |= set(re.findall(r"\"(--[a-z][a-z-]*)\"", script.read_text()))
        known |= {f"--{name}" for name in re.findall(r"^    (\w+): Annotated\[", script.read_text(), re.MULTILINE)}
    named = {option: path.name for path in DOCUMENTS for option in options(path)}
    assert {option: where for option, where in named.items() if option not in known} == {}
    assert set(FOREIGN) <= set(named)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_and_pictures_are_there(path: Path) -> None:
    for target in links(path):
        place, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        other = path.parent / place if place else path
        assert other.exists(), f"{path.name}: {target}"
        assert not anchor or anchor in anchors(other), f"{path.name}: {target}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_files_of_the_repository_that_are_named_are_there(path: Path) -> None:
    spans = re.findall(r"`([^`\n]+)`", path.read_text())
    named = {
        word
        for span in spans
        for word in span.split()
        if re.match(r"(docs|examples|benchmarks|tests|src|dipcli)/", word)
    }
    made = {"examples/cat_noisy.png", "examples/cat_clean.png"}
    for each in named - made:
        place = ROOT / "src" / each if each.startswith("dipcli/") else ROOT / each
        assert place.exists(), f"{path.name}: {each}"

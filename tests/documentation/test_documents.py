"""Every command in the documents is run, unchanged, by these tests or by CI; links and options exist.

A command runs in a folder of its own with the images, masks and folders that it names (`scratch_folder.py`). Plain
lines of `dip`, scripts of the repository and the processes that these start run in this process (`in_process.py`).
Lines that need a shell get one; the `dip` on its PATH hands its arguments to this process (`shell.py`), and
`.venv/bin/dip` is the real one. Two things make it fast: fits have few iterations and narrow networks, in every process
(`fast_fits.py`), and the options of a benchmark are repeated with smaller values (`SMALLER_VALUES`).

By default the first line of each task and all Python run; shells, scripts and the other lines are marked slow.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from pathlib import Path
from signal import SIGINT
from typing import Any

import imageio.v3 as iio
import pytest
from documentation import scratch_folder
from documentation.fast_fits import fast_fits
from documentation.in_process import Capture, call, in_process
from documentation.pages import DOCUMENTS, ROOT, Snippet, anchors, links, options, snippets
from documentation.shell import run_in_shell

from dipcli.runs.interrupt import Interrupt
from dipcli.tasks import registry
from dipcli.tasks.registry import tasks

# Set like commands, but are none.
FORMULAS = ("minimise over theta", "argv\n")
# Not run by these tests, and why that is enough.
RUN_ELSEWHERE = {
    "bash .ci/run": "CI runs it",
    ".venv/bin/pytest -m slow": "CI runs these tests",
    "pipx install .": "it makes an environment and calls pip with the arguments of the first command, which CI runs",
    "HYPOTHESIS_PROFILE=nightly .venv/bin/pytest tests/cli/test_any_file.py": "nightly; the suite makes fewer files",
    "DIP_KILLS=20 .venv/bin/pytest tests/records/test_checkpoints.py": "nightly; the suite kills a run less often",
    "DIP_CLUSTER=40 .venv/bin/pytest tests/cluster/test_cluster.py": "nightly; the suite has fewer images",
    ".venv/bin/pip install -c constraints.txt '.[cluster]'": "CI installs that extra too",
    'pip install "dipcli[': "the same",
    "python benchmarks/gpu.py --out gpu.json": "it needs a GPU; test_benchmarks.py runs it without one",
    "dask scheduler --host 10.0.0.1": "test_cluster.py starts one on this machine",
    "CUDA_VISIBLE_DEVICES=0 dask worker tcp://10.0.0.1:8786": "the same",
    "dip denoise folder/ -o restored/ --scheduler tcp://10.0.0.1:8786": "test_cluster.py uses the one on this machine",
    "dip denoise folder/ -o restored/ --scheduler slurm": "test_cluster.py tests what needs no Slurm",
}
# Patterns of the commands that CI takes out of a document and runs unchanged.
BY_CI = re.findall(r"grep -m1 -oE '([^']+)' \S+\.md", (ROOT / ".ci" / "run").read_text())
# A line with one of these needs a shell.
SHELL = re.compile(r"[|<>;&*?$`]|^[A-Z_]+=|^\.venv/")
IMAGE_SUFFIXES = (".png", ".tif")


def divided(factor: int, least: int) -> Callable[[str], str]:
    """Return a function that divides numbers separated by commas, down to `least`."""
    return lambda sizes: ",".join(str(max(least, int(size) // factor)) for size in sizes.split(","))


# By benchmark and option: the value if the option is not given (None: it stays out), and how it becomes smaller.
SMALLER_VALUES: dict[str, dict[str, tuple[str | None, Callable[[str], str]]]] = {
    "frontier.py": {
        "--iterations": ("20", str),
        "--images": ("house", lambda names: names.split(",")[0]),
        "--noise": (None, lambda kinds: kinds.split(",")[0]),
        # A package that may not be used commercially is not installed.
        "--methods": (None, lambda names: names.replace("cbm3d,", "")),
    },
    "deblurring.py": {
        "--images": ("house", lambda names: names.split(",")[0]),
        "--kernels": ("motion:5:0", str),
    },
    "real.py": {
        "--sets": ("made", lambda _: "made"),
        "--images": ("f16", lambda names: names.split(",")[0]),
        "--noise": ("smooth07-10", str),
    },
    "inpainting.py": {
        "--images": ("house", lambda names: names.split(",")[0]),
        "--missing": (None, lambda fractions: fractions.split(",")[0]),
    },
    "speed.py": {
        "--sizes": (None, divided(8, 64)),
        "--iterations": ("1", lambda _: "1"),
        "--rounds": ("1", lambda _: "1"),
        "--psnr": (None, lambda _: "3"),
    },
    "stopping.py": {
        "--images": ("house,f16", lambda names: ",".join(names.split(",")[:2])),
        "--all-rules": (None, lambda _: "6"),
    },
    "scale.py": {
        "--ways": ("one,batch", lambda ways: "one,local:1" if ways.endswith(",local") else "one,batch"),
        "--images": ("10000", str),
        "--count": (None, divided(8, 2)),
        "--side": (None, divided(2, 32)),
        "--iterations": (None, divided(20, 3)),
        "--seconds": ("5", lambda _: "0.1"),
    },
    "consistent.py": {
        "--cases": (None, lambda cases: cases.split(",")[0]),
        "--methods": (None, lambda _: "companion"),
        "--only": ("house,butterfly", str),
        "--side": (None, lambda _: "0"),
    },
    "make_gallery.py": {"--only": ("telephone,hole,superres", str)},
    "baselines.py": {"--only": ("butterfly,half", str)},
    "published.py": {"--only": ("text,zebra,snail,cave,monkey,impedance", str)},
    "tiles.py": {
        "--sizes": (None, divided(8, 64)),
        "--side": (None, divided(8, 192)),
        "--tile": (None, divided(8, 128)),
        "--iterations": ("2", lambda _: "2"),
    },
}


def _collect() -> list[Snippet]:
    """Return every snippet once; a block of script commands is one snippet, because they build on each other."""
    found: dict[str, Snippet] = {}
    for path in DOCUMENTS:
        blocks: dict[int, list[Snippet]] = {}
        for snippet in snippets(path):
            if snippet.kind == "line" and snippet.text.startswith("python "):
                blocks.setdefault(snippet.block, []).append(snippet)
            elif _is_call(snippet):
                found.setdefault(_without_comment(snippet.text), snippet)
        for block in blocks.values():
            text = "\n".join(line.text for line in block)
            found.setdefault(text, Snippet(block[0].where, text, "line"))
    return list(found.values())


def _without_comment(text: str) -> str:
    return text if "\n" in text else re.sub(r"\s+# .*", "", text)


def _is_call(snippet: Snippet) -> bool:
    """Whether it can be run; not so the formula, a synopsis, or the mention of a command in a sentence."""
    if snippet.text.startswith(FORMULAS) or "[OPTIONS]" in snippet.text:
        return False
    if snippet.kind != "span":
        return True
    words = snippet.text.split()
    if words[0] == "dip":
        return scratch_folder.is_complete(words[1:]) and not re.search(r"\b[A-Z]{3,}\b", snippet.text)
    return "…" not in snippet.text and "..." not in snippet.text


def _needs_shell(snippet: Snippet) -> bool:
    text = re.sub(r"'[^']*'", "", _without_comment(snippet.text))
    return snippet.kind == "script" or bool(SHELL.search(text)) or "--install" in text


def _mark_slow(found: list[Snippet]) -> Iterator[Any]:
    """Yield the snippets as test parameters: slow, but for Python and the first plain line of each task."""
    seen = set()
    for snippet in found:
        words = snippet.text.split()
        task = words[1] if words[0] == "dip" and not _needs_shell(snippet) else ""
        fast = snippet.kind == "python" or (task in tasks() and task not in seen)
        seen.add(task)
        marks = () if fast else pytest.mark.slow
        yield pytest.param(snippet, marks=marks, id=f"{snippet.where}: {snippet.text[:60]}")


SNIPPETS = _collect()


@pytest.fixture(scope="module", autouse=True)
def _fast_fits() -> Iterator[None]:
    with fast_fits():
        yield


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory of a command; its subprocesses are fast too, and find `dip`; tasks it declares go."""
    declared = dict(registry.DECLARED)
    work, site = tmp_path / "work", tmp_path / "site"
    work.mkdir()
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        f"import sys\nsys.path.append({str(ROOT / 'tests')!r})\n"
        "from documentation import fast_fits\nfast_fits.patch_on_import()\n"
    )
    programs = Path(sys.executable).parent
    (work / ".venv").mkdir()
    (work / ".venv" / "bin").symlink_to(programs)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")])))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(work))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "1")  # as Slurm sets them for a job of an array
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "0")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(subprocess, "run", in_process(subprocess.run))
    monkeypatch.chdir(work)
    yield work
    registry.DECLARED.clear()
    registry.DECLARED.update(declared)


@pytest.mark.parametrize("snippet", list(_mark_slow(SNIPPETS)))
def test_every_command_of_the_documents_works_unchanged(
    snippet: Snippet, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = _without_comment(snippet.text)
    if any(re.fullmatch(pattern, text) for pattern in BY_CI) or text.startswith(tuple(RUN_ELSEWHERE)):
        return
    _run(snippet, folder, monkeypatch)


def _run(snippet: Snippet, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = _without_comment(snippet.text)
    if snippet.kind == "python":
        _run_python(text, folder)
    elif text.startswith("python "):
        _run_scripts(text.splitlines(), folder)
    elif _needs_shell(snippet):
        _run_in_shell(text, folder)
    else:
        assert text.startswith("dip "), f"no rule says how to run this: {text}"
        _run_dip(shlex.split(text), folder, monkeypatch)


def _run_dip(words: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run it in this process; it writes the files that it prints, one for each image, run and figure."""
    name, given = scratch_folder.parse(words[1:])
    scratch_folder.prepare_for_dip(folder, words[1:])
    runs = scratch_folder.runs_of(name, given)
    for run in runs:
        _leave_a_run(run, monkeypatch, interrupted=name == "resume")
    inputs = scratch_folder.inputs_of(words[1:])
    images = [path for argument in inputs for path in _expand(folder, str(argument))]
    code, out, err = call(words)
    assert code in ((0, 1) if name == "doctor" else (0,)), err  # doctor ends in 1 if something is broken
    assert out.strip()
    if not inputs and not runs:
        return
    written = [json.loads(line)["output"] for line in out.splitlines()] if given.get("as_json") else out.splitlines()
    figures = sum(bool(given.get(option)) for option in ("curves", "sheet"))
    assert len(written) == (len(images) or len(runs)) + figures
    for path in written:
        assert iio.imread(path).size if scratch_folder.SUFFIX.search(path) else Path(path).stat().st_size
    for path in filter(None, map(given.get, ("output", "uncertainty"))):
        assert Path(path).is_dir() if str(path).endswith("/") else Path(path).stat().st_size
    for run in folder.rglob("*.dip"):
        assert json.loads((run / "run.json").read_text())["finished"]
        logs = list(run.glob("log.csv")) or list(run.glob("*/log.csv"))  # or of the pages of a stack
        assert logs
        assert all(len(log.read_text().splitlines()) > 1 for log in logs)
        assert bool(given.get("snapshot_at")) == (run / "snapshots" / "000001.png").exists()


def _expand(folder: Path, name: str) -> list[Path]:
    """Return the images that an argument stands for."""
    if "*" in name:
        return list(folder.glob(name))
    path = folder / name
    return [file for file in path.rglob("*") if file.suffix in IMAGE_SUFFIXES] if path.is_dir() else [path]


def _leave_a_run(run: Path, monkeypatch: pytest.MonkeyPatch, *, interrupted: bool) -> None:
    """Make a run folder, or a folder with a run in it; if `interrupted`, of a run that Ctrl-C ended."""
    source, output = "noisy_input.png", f"{run.stem}.png" if run.suffix == ".dip" else f"{run}/"
    scratch_folder.write_image(Path(source))

    def reason_after_ctrl_c(self: Interrupt) -> str | None:
        self.received = self.received or SIGINT
        return reason(self)

    reason = Interrupt.reason
    with monkeypatch.context() as patch:
        if interrupted:
            patch.setattr(Interrupt, "reason", reason_after_ctrl_c)
        code, _, err = call(["dip", "denoise", source, "-o", output, "--log-every", "1"])
    assert code == (130 if interrupted else 0), err
    assert (run / "checkpoint.pt").exists() == interrupted


def _run_scripts(lines: list[str], folder: Path) -> None:
    """Run them in this process, in order; each prints something and writes its output files."""
    for line in lines:
        words = shlex.split(line, comments=True)
        scratch_folder.prepare_for_script(folder, words[2:])
        code, out, err = call(words + _smaller(words))
        assert code == 0, err
        outputs = re.findall(r"--out (\S+)|-o (\S+)", line)
        assert out.strip() or "docs/make_" in line, line
        for path in filter(None, sum(outputs, ())):
            assert Path(path).exists(), line
        if table := [row for row in out.splitlines() if row.startswith("| ")]:
            assert len(table) > 1, "only a header"
        assert table or "--table" not in words


def _smaller(words: list[str]) -> list[str]:
    """Return the same options with smaller values, which override the earlier ones."""
    extra: list[str] = []
    for option, (default, smaller) in SMALLER_VALUES.get(Path(words[1]).name, {}).items():
        given = words[words.index(option) + 1] if option in words else default
        if given is not None:
            extra += [option, smaller(given)]
    return extra


def _run_python(text: str, folder: Path) -> None:
    for name in re.findall(r"\"([^\"]+)\"", text):
        if scratch_folder.SUFFIX.search(name):
            scratch_folder.write_image(folder / name)
    with redirect_stderr(Capture()):
        exec(compile(text, "document", "exec"), {"__name__": "__main__"})  # noqa: S102 - the documents are ours


def _run_in_shell(text: str, folder: Path) -> None:
    """Run it by bash, which stops at the first failure; it writes the files that it redirects to."""
    scratch_folder.prepare_for_shell(folder, text)
    for program in re.findall(r"(?:^|[|;] *)([a-z_]+)\b(?! *=)", text):
        if not shutil.which(program) and program not in ("for", "do", "done"):
            pytest.skip(f"{program} is not installed")
    if ".venv/bin/pre-commit" in text:
        subprocess.run(["git", "init", "-q"], check=True)
        shutil.copy(ROOT / ".pre-commit-config.yaml", folder)
    code, out, err = run_in_shell(["bash", "-euo", "pipefail", "-c", f"{text}\nexit $?"])
    assert code == 0, err or out
    for path in re.findall(r">\s*(\S+)", text):
        assert Path(path).stat().st_size
    if "-o" not in text and "dip denoise" in text:
        assert list(folder.glob("*.denoised.png"))


def test_commands_that_are_run_elsewhere_are_in_the_documents() -> None:
    for pattern in BY_CI:
        assert any(re.fullmatch(pattern, snippet.text) for snippet in SNIPPETS), pattern
    for text in RUN_ELSEWHERE:
        assert any(snippet.text.startswith(text) for snippet in SNIPPETS), text
    for text in RUN_ELSEWHERE:
        for variable, file in re.findall(r"([A-Z_]+)=\S+ .*(tests/[\w/]+\.py)", text):
            assert (ROOT / file).exists()
            assert any(variable in path.read_text() for path in (ROOT / file, ROOT / "tests" / "conftest.py"))
    for formula in FORMULAS:
        assert any(formula in path.read_text() for path in DOCUMENTS)


def test_no_dip_command_is_missed() -> None:
    """Commands found in another way: every line of a block, and every span with an image to read."""
    known = {_without_comment(snippet.text) for snippet in SNIPPETS}
    for path in DOCUMENTS:
        text = path.read_text()
        lines = re.findall(r"^ {4}(dip .*)$", text, re.MULTILINE)
        spans = re.findall(r"`(dip \w+ [\w/]+\.(?:png|jpg)[^`]*)`", text)
        for command in lines + spans:
            assert _without_comment(command) in known, f"{path.name}: {command}"


@pytest.mark.parametrize(
    "text", ["frobnicate noisy.png", "dip denoise missing.png --iters 0", "dip denoise noisy.png --tiles 4"]
)
def test_a_broken_command_fails(text: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AssertionError):
        _run(Snippet("here", text, "line"), folder, monkeypatch)


# Options of other programs, and their program.
FOREIGN_OPTIONS = {
    "--pip-args": "pipx",
    "--extra-index-url": "pip",
    "--hypothesis-show-statistics": "pytest",
    "--array": "sbatch",
    "--cpus-per-task": "sbatch",
    "--host": "dask",
    "--no-dashboard": "dask",
    "--nthreads": "dask",
    "--no-cache-dir": "pip",
    "--name": "dask",
}


def test_every_option_that_is_named_exists() -> None:
    known = options(ROOT / "docs" / "cli.md") | set(FOREIGN_OPTIONS)
    for script in (path for name in ("benchmarks", "docs", "examples") for path in (ROOT / name).glob("*.py")):
        known |= set(re.findall(r"\"(--[a-z][a-z-]*)\"", script.read_text()))
        known |= {f"--{name}" for name in re.findall(r"^    (\w+): Annotated\[", script.read_text(), re.MULTILINE)}
    named = {option: path.name for path in DOCUMENTS for option in options(path)}
    assert {option: name for option, name in named.items() if option not in known} == {}
    assert set(FOREIGN_OPTIONS) <= set(named)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_and_images_exist(path: Path) -> None:
    for target in links(path):
        file, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        other = path.parent / file if file else path
        assert other.exists(), f"{path.name}: {target}"
        assert not anchor or anchor in anchors(other), f"{path.name}: {target}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_files_of_the_repository_that_are_named_exist(path: Path) -> None:
    spans = re.findall(r"`([^`\n]+)`", path.read_text())
    named = {
        word
        for span in spans
        for word in span.split()
        if re.match(r"(docs|examples|benchmarks|tests|src|dipcli)/", word)
    }
    made = {"examples/cat_noisy.png", "examples/cat_clean.png"}
    for name in named - made:
        file = ROOT / "src" / name if name.startswith("dipcli/") else ROOT / name
        assert file.exists(), f"{path.name}: {name}"

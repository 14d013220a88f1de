"""Classical methods beside the result: what they are, that they have no say, and that the verdict is honest."""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
from command_line import Dip, read_record_of
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import noisy, scene
from skimage.restoration import denoise_nl_means, denoise_tv_chambolle

from dipcli import images
from dipcli.images.image import from_array
from dipcli.problem import metrics
from dipcli.records import summaries
from dipcli.records.run_record import BaselineRecord, RunRecord
from dipcli.runs.comparison import Comparison
from dipcli.tasks.baselines import denoising
from dipcli.tasks.baselines import inpainting as filling
from dipcli.tasks.baselines.baseline import Baseline, Budget, Skipped
from dipcli.tasks.case import Case
from dipcli.tasks.denoise import denoise
from dipcli.tasks.registry import tasks

NAMES = {
    "denoise": {"nlmeans", "tv", "wavelets"},
    "inpaint": {"cubic", "biharmonic"},
    "superres": {"bicubic", "lanczos"},
}
OWN: dict[str, list[object]] = {"inpaint": ["--mask", "alpha"], "superres": ["--scale", 1.5]}


def with_alpha(image: np.ndarray) -> np.ndarray:
    full = np.iinfo(image.dtype).max
    alpha = np.full((*image.shape[:2], 1), full, image.dtype)
    alpha[8:12, 8:20] = 0
    return np.concatenate([image, alpha], axis=2)


def in_16_bits(image: np.ndarray) -> np.ndarray:
    return image.astype(np.uint16) * 257


KINDS: dict[str, Callable[[], np.ndarray]] = {
    "grey.png": lambda: noisy(scene(33, 47, 1))[..., 0],
    "colour.jpg": lambda: noisy(scene(33, 47)),
    "16 bits.png": lambda: in_16_bits(noisy(scene(33, 47))),
    "grey 16 bits.png": lambda: in_16_bits(noisy(scene(33, 47, 1)))[..., 0],
    "alpha.png": lambda: with_alpha(noisy(scene(33, 47))),
    "seven.tif": lambda: noisy(scene(33, 47, 7)),
    "float.tif": lambda: noisy(scene(33, 47)).astype(np.float32) / 100 - 1,
}


FAST = [("denoise", name) for name in ("colour.jpg", "alpha.png", "float.tif")] + [("superres", "seven.tif")]


def keep(image: np.ndarray, path: Path) -> None:
    images.write(images.encode(from_array(image), path.suffix), path)


@pytest.mark.parametrize(
    ("task", "name"),
    [
        pytest.param(task, name, marks=[] if (task, name) in FAST else pytest.mark.slow)
        for task in ("denoise", "superres")
        for name in KINDS
    ],
)
def test_images_of_every_kind_are_compared(dip: Dip, tmp_path: Path, name: str, task: str) -> None:
    source = tmp_path / name
    keep(KINDS[name](), source)
    output = tmp_path / f"out{source.suffix}"
    result = dip.quick(task, source, "-o", output, "--compare", *OWN.get(task, []))
    assert result.exit_code == 0, result.output
    account = read_record_of(tmp_path / "out.dip")
    assert {Path(each["file"]).stem for each in account["comparison"]} == NAMES[task]
    restored = images.read(output)[0]
    for each in account["comparison"]:
        baseline = images.read(tmp_path / "out.dip" / each["file"])[0]
        assert (baseline.pixels.shape, baseline.dtype) == (restored.pixels.shape, restored.dtype)
        assert (baseline.alpha is None) == (restored.alpha is None)
        assert each["seconds"] > 0
        assert "psnr_ref" not in each


@pytest.mark.slow
def test_holes_are_filled_in_every_kind(dip: Dip, tmp_path: Path) -> None:
    for number, make in enumerate((lambda: scene(33, 47), lambda: in_16_bits(scene(33, 47, 1)))):
        source, folder = tmp_path / f"{number}.png", tmp_path / f"{number}.inpainted.dip"
        keep(with_alpha(make()), source)
        result = dip.quick("inpaint", source, "--mask", "alpha", "--compare")
        assert result.exit_code == 0, result.output
        known = with_alpha(make())[..., -1] > 0
        for each in read_record_of(folder)["comparison"]:
            baseline = images.read(folder / each["file"])[0].array()
            assert np.array_equal(baseline[known], with_alpha(make())[known]), "known pixels come back bit for bit"
            assert baseline[..., -1].min() == np.iinfo(baseline.dtype).max, "what was filled is to be seen"


def test_with_a_reference_each_is_measured_as_the_result_is(dip: Dip, noisy_png: Path, clean_png: Path) -> None:
    result = dip.quick("denoise", noisy_png, "--reference", clean_png, "--compare", "--json")
    account = json.loads(result.stdout)
    folder = noisy_png.with_name("noisy.denoised.dip")
    assert account == read_record_of(folder)
    truth = images.read(clean_png)[0].pixels
    for each in account["comparison"]:
        pixels = images.read(folder / each["file"])[0].pixels
        assert each["psnr_ref"] == pytest.approx(metrics.psnr(pixels, truth), abs=1e-6)
        assert each["ssim_ref"] == pytest.approx(metrics.ssim(pixels, truth), abs=1e-6)
        assert f"{each['psnr_ref']:.2f} dB" in result.stderr
    best = max(account["comparison"], key=lambda each: each["psnr_ref"])["name"]
    assert best in account["compared"]
    assert f"{noisy_png}: {account['compared']}" in result.stderr
    assert account["psnr_ref"] < max(each["psnr_ref"] for each in account["comparison"]), "after three iterations"
    assert f"On this image {best} is " in account["compared"]


def test_what_a_lossy_output_costs_is_charged_to_all(dip: Dip, tmp_path: Path, clean_png: Path) -> None:
    source = tmp_path / "noisy.jpg"
    iio.imwrite(source, noisy(scene(37, 53)), quality=95)
    dip.quick("denoise", source, "-o", tmp_path / "out.jpg", "--reference", clean_png, "--compare")
    truth, folder = images.read(clean_png)[0].pixels, tmp_path / "out.dip"
    for each in read_record_of(folder)["comparison"]:
        baseline = images.read(folder / each["file"])[0]
        lossy = images.decode(images.encode(baseline, ".jpg")).pixels
        assert each["psnr_ref"] == pytest.approx(metrics.psnr(lossy, truth), abs=1e-6)


def test_the_result_and_the_baselines_know_nothing_of_each_other_nor_of_the_truth(
    dip: Dip, noisy_png: Path, clean_png: Path, tmp_path: Path
) -> None:
    for name, options in {"plain": [], "both": ["--compare", "--reference", clean_png], "blind": ["--compare"]}.items():
        (tmp_path / name).mkdir()
        dip.quick("denoise", noisy_png, "-o", tmp_path / name / "out.png", *options)
    one, two, three = ((tmp_path / name / "out.png").read_bytes() for name in ("plain", "both", "blind"))
    assert one == two == three
    assert not (tmp_path / "plain/out.dip/compare").exists()
    assert "compared" not in read_record_of(tmp_path / "plain/out.dip")
    for name in NAMES["denoise"]:
        results = [(tmp_path / which / f"out.dip/compare/{name}.png").read_bytes() for which in ("both", "blind")]
        assert results[0] == results[1]
    assert "--reference" in read_record_of(tmp_path / "blind/out.dip")["compared"]


@pytest.mark.slow
def test_without_a_place_for_images_there_is_the_table_alone(dip: Dip, noisy_png: Path) -> None:
    before = set(noisy_png.parent.iterdir())
    result = dip.quick("denoise", noisy_png, "-o", "-", "--compare")
    assert result.stdout_bytes.startswith(b"\x89PNG")
    assert "non-local means" in result.stderr
    assert set(noisy_png.parent.iterdir()) == before
    account = json.loads(dip.quick("denoise", noisy_png, "--no-run-dir", "--compare", "--json").stdout)
    assert [each["file"] for each in account["comparison"]] == [None] * 3
    assert set(noisy_png.parent.iterdir()) - before == {noisy_png.with_name("noisy.denoised.png")}


@pytest.mark.parametrize("task", sorted({"flash", "dejpeg", "impedance", "invert"}))
def test_who_has_no_baselines_refuses(dip: Dip, noisy_png: Path, clean_png: Path, task: str) -> None:
    own = {
        "flash": ["--guide", clean_png],
        "invert": ["--weights", "random", "--layer", "conv1", "--size", 32],
        "impedance": ["--size", 32],
        "dejpeg": ["--blind"],
    }
    result = dip(task, noisy_png, *own[task], "--compare", "--iters", 1)
    assert result.exit_code == 2
    assert f"dip {task} has no classical methods" in result.stderr
    assert "Leave it out" in result.stderr
    assert set(tasks()) - set(own) >= set(NAMES)


def test_an_earlier_comparison_leaves_no_traces_and_other_files_stay(dip: Dip, noisy_png: Path) -> None:
    folder = noisy_png.with_name("noisy.denoised.dip")
    dip.quick("denoise", noisy_png, "--compare")
    assert {each.stem for each in (folder / "compare").iterdir()} == NAMES["denoise"]
    (folder / "compare/mine.png").write_bytes(b"mine")
    dip.quick("denoise", noisy_png)
    assert [each.name for each in (folder / "compare").iterdir()] == ["mine.png"]


def test_what_no_run_has_made_is_not_replaced(dip: Dip, noisy_png: Path) -> None:
    theirs = noisy_png.with_name("noisy.denoised.dip") / "compare/tv.png"
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(b"somebody's")
    result = dip.quick("denoise", noisy_png, "--compare")
    assert result.exit_code == 2
    assert "not from a run" in result.stderr
    assert theirs.read_bytes() == b"somebody's"


@pytest.mark.slow
def test_every_image_of_a_folder_is_compared(dip: Dip, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(2):
        iio.imwrite(tmp_path / f"in/{number}.png", noisy(scene(24, 24), seed=number))
    arguments = ("denoise", tmp_path / "in", "-o", tmp_path / "out")
    assert dip.quick(*arguments, "--compare").exit_code == 0
    for number in range(2):
        assert len(read_record_of(tmp_path / f"out/{number}.dip")["comparison"]) == 3
    assert "already restored\n" in dip.quick(*arguments, "--compare").stderr
    assert "already restored with other options" in dip.quick(*arguments).stderr


# What goes wrong.


def silly(restore: Callable[[Budget], np.ndarray], case: Case, name: str = "silly") -> Case:
    """The same case, whose first baseline is another one."""
    assert case.baselines is not None
    others = case.baselines()[1:]
    return replace(case, baselines=lambda: [Baseline(name, "nlmeans", restore), *others])


def compare(
    case: Case, folder: Path | None = None, *, limit: int | None = None, signals: tuple[signal.Signals, ...] = ()
) -> tuple[list[str], str, signal.Signals | None]:
    """The methods with a result, the sentence, and the signal that ended the comparison."""
    run = RunRecord(input="x.png", output="y.png", task="denoise", seconds=5.0)
    results, sentence, ended_by = Comparison(case, None, ".png", folder, limit).run(run, signals)
    return [result.name for result in results], sentence, ended_by


@pytest.fixture
def case() -> Case:
    return denoise(from_array(noisy(scene(24, 32))))


def test_a_baseline_that_fails_costs_nothing(case: Case, tmp_path: Path) -> None:
    def failing(_: Budget) -> np.ndarray:
        raise ValueError("it has a headache.\nand more")

    names, sentence, ended_by = compare(silly(failing, case), tmp_path)
    assert ended_by is None
    assert names == ["total variation", "wavelet shrinkage"]
    assert sentence.endswith("Silly was skipped: it failed (it has a headache).")


def test_an_image_that_cannot_be_written_costs_nothing(case: Case, tmp_path: Path) -> None:
    (tmp_path / "compare").write_bytes(b"a file in the way")
    names, sentence, _ = compare(case, tmp_path)
    assert names == []
    assert "No classical method" in sentence
    assert sentence.count("the folder") == 3


def test_who_takes_too_much_is_left_out_with_the_reason(case: Case) -> None:
    def greedy(allowance: Budget) -> np.ndarray:
        allowance.expect(seconds=3600)
        raise AssertionError("it was to stop here")

    _, sentence, _ = compare(silly(greedy, case, "greed"))
    assert "Greed was skipped: it would take about 60 min, the limit is 60 s." in sentence
    _, sentence, _ = compare(case, limit=1)
    assert "Total variation was skipped: it would take about 0.0 GiB" in sentence
    assert "(--max-memory)" in sentence


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_ctrl_c_ends_the_comparison_and_costs_nothing_else(
    dip: Dip, noisy_png: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, code: int
) -> None:
    def interrupted(*_: object) -> np.ndarray:
        signal.raise_signal(number)
        raise AssertionError("it was to stop here")

    monkeypatch.setattr(denoising, "total_variation", interrupted)
    result = dip.quick("denoise", noisy_png, "--compare", iterations=2)
    assert result.exit_code == code
    assert result.stdout == f"{noisy_png.with_name('noisy.denoised.png')}\n"
    account = read_record_of(noisy_png.with_name("noisy.denoised.dip"))
    assert account["finished"]
    assert [each["name"] for each in account["comparison"]] == ["non-local means"]
    for name in ("Total variation", "Wavelet shrinkage"):
        assert f"{name} was skipped: the comparison was interrupted by {number.name}." in account["compared"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_who_interrupts_while_the_baselines_are_loaded_is_heard(case: Case) -> None:
    def loading() -> list[Baseline]:
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("it was to stop here")

    names, sentence, ended_by = compare(replace(case, baselines=loading), signals=(signal.SIGINT,))
    assert ended_by is signal.SIGINT
    assert names == []
    assert "The rest was skipped: the comparison was interrupted by SIGINT." in sentence


def test_what_is_neither_noisy_nor_large_enough_is_no_trouble(dip: Dip, tmp_path: Path) -> None:
    iio.imwrite(tmp_path / "flat.png", np.full((16, 16), 7, np.uint8))
    result = dip.quick("denoise", tmp_path / "flat.png", "--compare")
    assert result.exit_code == 0, result.output
    assert "no measurable noise" in result.stderr
    iio.imwrite(tmp_path / "small.png", noisy(scene(16, 16)))
    result = dip.quick("denoise", tmp_path / "small.png", "--compare")
    assert len(read_record_of(tmp_path / "small.denoised.dip")["comparison"]) == 3, result.output


# What the baselines are.


def test_strips_are_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(denoising, "MIN_STRIP_PIXELS", 1)
    for channels in (1, 3):
        last = noisy(scene(150, 20, channels)).astype(np.float32) / 255
        restored = denoising.non_local_means(last.transpose(2, 0, 1), 0.1, Budget())
        whole = denoise_nl_means(
            last, patch_size=5, patch_distance=6, h=0.08, sigma=0.1, fast_mode=False, channel_axis=-1
        ).reshape(last.shape)
        assert np.abs(restored.transpose(1, 2, 0) - whole).max() < 1e-6


@pytest.mark.parametrize("channels", [1, 3])
def test_each_baseline_removes_noise(channels: int) -> None:
    clean = scene(64, 64, channels)
    case = denoise(from_array(noisy(clean)))
    assert case.baselines is not None
    truth, before = from_array(clean).pixels, metrics.psnr(case.image.pixels, from_array(clean).pixels)
    for baseline in case.baselines():
        assert metrics.psnr(baseline.restore(Budget()), truth) > before + 5, baseline.name


def test_the_weight_of_total_variation_is_chosen_well_without_the_truth() -> None:
    cat = Path(__file__).parents[2] / "examples"
    clean, damaged = (
        images.to_image(cat / f"cat_{which}.png").pixels[:, 64:192, 64:192] for which in ("clean", "noisy")
    )
    level = 25 / 255
    ours = metrics.psnr(denoising.total_variation(damaged, level, Budget()), clean)
    last = damaged.transpose(1, 2, 0)
    others = [
        metrics.psnr(denoise_tv_chambolle(last, weight=each * level, channel_axis=-1).transpose(2, 0, 1), clean)
        for each in denoising.TV_WEIGHTS
    ]
    assert ours > max(others) - 0.2


def test_impulses_have_a_baseline_of_their_own() -> None:
    clean = scene(48, 48)
    image = clean.copy()
    image[np.random.default_rng(0).random(image.shape) < 0.1] = 0
    case = denoise(from_array(image), loss="l1")
    assert case.baselines is not None
    psnrs = {each.name: metrics.psnr(each.restore(Budget()), from_array(clean).pixels) for each in case.baselines()}
    assert max(psnrs, key=psnrs.__getitem__) == "median"


@settings(max_examples=20)
@given(
    st.integers(16, 40), st.integers(16, 40), st.sampled_from([1, 3, 6]), st.floats(0.02, 0.5), st.integers(0, 2**31)
)
def test_both_surfaces_follow_a_gradient(height: int, width: int, channels: int, share: float, seed: int) -> None:
    """They are exact on linear images, whatever stands where nothing is known; what is known stays."""
    random = np.random.default_rng(seed)
    gradients = random.uniform(-1, 1, (2, channels, 1, 1))
    y, x = np.mgrid[:height, :width] / max(height, width)
    truth = (0.5 + (gradients[0] * y + gradients[1] * x) / 4).astype(np.float32)
    marked = random.random((height, width)) < share
    marked[:2] = marked[-2:] = marked[:, :2] = marked[:, -2:] = False  # at borders a biharmonic surface bends
    marked[5, 5] = True
    damaged = np.where(marked, random.random(truth.shape), truth).astype(np.float32)
    for baseline in filling.make_baselines(damaged, marked):
        restored = baseline.restore(Budget())
        assert np.array_equal(restored[:, ~marked], truth[:, ~marked])
        assert np.abs(restored - truth).max() < 1e-4, baseline.name


def test_beyond_the_outermost_known_pixel_the_nearest_one_counts() -> None:
    pixels, marked = np.zeros((1, 16, 16), np.float32), np.zeros((16, 16), bool)
    pixels[0, :, 12:], marked[:, 13:] = 0.5, True
    assert np.all(filling.cubic(pixels, marked, Budget())[0, :, 13:] == 0.5)


def test_a_large_hole_is_filled_in_double_precision() -> None:
    truth = np.broadcast_to(np.linspace(0, 1, 200, dtype=np.float32), (1, 200, 200))
    marked = np.zeros((200, 200), bool)
    marked[10:190, 10:190] = True
    restored = filling.biharmonic(truth, marked, Budget())
    assert np.abs(restored - truth).max() < 1e-5


def test_of_many_known_pixels_those_around_the_holes_do(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    y, x = np.mgrid[:90, :90] / 90
    truth = (0.5 + np.sin(5 * x + 3 * y) / 3)[None].astype(np.float32)
    marked = np.zeros((90, 90), bool)
    marked[40:44, 20:60] = True
    marked |= random.random((90, 90)) < 0.01
    whole = filling.cubic(truth, marked, Budget())
    monkeypatch.setattr(filling, "MAX_KNOWN", 10)
    around = filling.cubic(truth, marked, Budget())
    assert not np.array_equal(whole, around), "it went by less"
    assert np.abs(around - whole).max() < 5e-3
    assert np.abs(around - truth).max() < 5e-3


def test_a_hole_that_would_take_too_much_is_not_started() -> None:
    marked = np.zeros((2000, 2000), bool)
    marked[100:1900, 100:1900] = True
    with pytest.raises(Skipped, match=r"about \d+ min, the limit is 60 s"):
        filling.biharmonic(np.zeros((1, 2000, 2000), np.float32), marked, Budget(60))
    with pytest.raises(Skipped, match=r"about 19\.\d GiB, 1\.0 are left"):
        filling.biharmonic(np.zeros((1, 2000, 2000), np.float32), marked, Budget(memory=2**30))


# What is said.


def run(psnr: float | None = None, seconds: float = 80.0, **more: Any) -> RunRecord:
    fields = {"input": "x.png", "output": "y.png", "task": "denoise", "psnr_ref": psnr, "ssim_ref": 0.9}
    return RunRecord(seconds=seconds, **fields, **more)


def result(name: str, psnr: float | None, seconds: float = 0.2) -> BaselineRecord:
    return BaselineRecord(name=name, seconds=seconds, file=f"compare/{name}.png", psnr_ref=psnr, ssim_ref=0.8)


NLM, TV = result("non-local means", 29.0), result("total variation", 28.0, 1.5)
CASES = [
    (
        run(29.5),
        [TV, NLM],
        ("the result is 0.50 dB better than non-local means", "the best of 2 classical methods", "400 times faster"),
    ),
    (run(29.5), [NLM], ("the result is 0.50 dB better than non-local means, which is 400 times faster",)),
    (run(28.3), [NLM, TV], ("non-local means is 0.70 dB better and is 400 times faster: use it",)),
    (run(28.96), [NLM, TV], ("non-local means is as good, within 0.05 dB, and is 400 times faster",)),
    (run(29.04), [NLM, TV], ("non-local means is as good, within 0.05 dB, and is 400 times faster",)),
    (run(28.0, seconds=0.1), [NLM], ("non-local means is 1.00 dB better and takes 2.0 times as long",)),
    (run(30.0, seconds=0.2), [NLM], ("the result is 1.00 dB better than non-local means", "takes about as long")),
    (run(None), [NLM], ("the result is free of error",)),
    (run(None), [result("a", None)], ("a is as good, within 0.05 dB, and is 400 times faster",)),
    (run(30.0), [result("a", None)], ("a is free of error and is 400 times faster: use it",)),
]


@pytest.mark.parametrize(("record", "results", "parts"), CASES)
def test_the_comparison_is_honest_both_ways(
    record: RunRecord, results: list[BaselineRecord], parts: tuple[str, ...]
) -> None:
    sentence = summaries.compare_with_baselines(record, results, {})
    assert all(part in sentence for part in parts), sentence


@given(st.floats(5, 60), st.lists(st.floats(5, 60), min_size=1, max_size=4), st.floats(0, 1e5), st.floats(0, 1e3))
def test_the_comparison_never_flatters(ours: float, theirs: list[float], fit: float, baseline: float) -> None:
    results = [result(f"method {number}", psnr, baseline) for number, psnr in enumerate(theirs)]
    sentence = summaries.compare_with_baselines(run(ours, fit), results, {})
    best = max(theirs)
    assert f"method {theirs.index(best)}" in sentence
    assert ("the result is" in sentence) == (ours - best > summaries.TIE_DB)
    assert ("is as good" in sentence) == (abs(ours - best) <= summaries.TIE_DB)
    ratio = max(fit, 1e-3) / max(baseline, 1e-3)
    assert ("times faster" in sentence) == (ratio >= summaries.SIMILAR_TIME_RATIO)
    if abs(ours - best) > summaries.TIE_DB:
        assert f"{abs(ours - best):.2f} dB" in sentence
    assert math.isfinite(fit)


def test_the_table_is_aligned() -> None:
    record = run(29.5, comparison=(NLM, TV), compared="So.")
    assert summaries.format_table(record) == [
        "  restored          29.50 dB  SSIM 0.900     80 s",
        "  non-local means   29.00 dB  SSIM 0.800   0.20 s  compare/non-local means.png",
        "  total variation   28.00 dB  SSIM 0.800   1.50 s  compare/total variation.png",
        "x.png: So.",
    ]
    assert summaries.format_table(run(29.5)) == []

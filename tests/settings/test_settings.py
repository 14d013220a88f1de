"""Settings: one field = default + help text + option."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from dipcli.errors import UsageError
from dipcli.settings import Settings
from dipcli.settings.options import option_fields
from dipcli.settings.outputs import Outputs
from dipcli.stopping import rules
from dipcli.tasks.registry import DEFAULT_PRESET, Task, tasks


@pytest.mark.parametrize("cls", [Settings, Outputs])
def test_every_field_has_help_and_a_group(cls: type) -> None:
    for knob in option_fields(cls):
        assert knob.help.endswith("."), knob.name
        assert knob.option.group
        assert knob.flag.startswith("--")


@pytest.mark.parametrize("task", tasks().values(), ids=lambda task: task.name)
def test_every_task_has_valid_presets_and_help(task: Task) -> None:
    from dipcli.networks import architecture

    assert set(task.presets) == {"fast", "balanced", "best", "paper"}
    for preset in task.presets:
        assert architecture(task.settings(preset).network)
    assert task.help.splitlines()[0].endswith(".")
    assert "dip " + task.name in task.help, "help teaches by example"


def test_given_settings_override_the_preset() -> None:
    task = tasks()["denoise"]
    paper = task.settings("paper", rate=0.5)
    assert asdict(paper) == {**asdict(task.settings("paper")), "rate": 0.5}
    assert task.settings() == task.settings(DEFAULT_PRESET)


def test_another_input_than_the_preset_s_has_its_own_depth() -> None:
    task = tasks()["denoise"]
    assert task.settings("fast", input="guide") == task.settings("fast")
    assert task.settings("paper", input="noise") == task.settings("paper")
    assert task.settings("paper").input_depth == 32
    assert task.settings("paper", input="meshgrid").input_depth is None
    assert task.settings("fast", input="fourier", input_depth=12).input_depth == 12


def test_a_time_budget_overrides_the_preset_s_runs() -> None:
    task = tasks()["denoise"]
    assert (task.settings("best").runs, task.settings("best", runs=2).runs) == (3, 2)
    assert task.settings("best", time="90s").runs is None
    assert task.settings("best", time="90s", runs=2).runs == 2


def test_an_unknown_preset_is_refused_with_the_presets() -> None:
    with pytest.raises(UsageError, match="fast, balanced, best, paper"):
        tasks()["denoise"].settings("quick")


@pytest.mark.parametrize(
    ("given", "option"),
    [
        ({"iterations": 0}, "--iters"),
        ({"max_iterations": 0}, "--max-iters"),
        ({"rate": 0.0}, "--lr"),
        ({"rate": float("nan")}, "--lr"),
        ({"ema": 1.0}, "--ema"),
        ({"ema": -0.1}, "--ema"),
        ({"beta2": 1.0}, "--beta2"),
        ({"reg_noise": -1.0}, "--reg-noise"),
        ({"tv": -1.0}, "--tv"),
        ({"input_depth": 0}, "--input-depth"),
        ({"threads": 0}, "--threads"),
        ({"seed": -1}, "--seed"),
        ({"seed": 2**63}, "--seed"),
        ({"threads": 10**9}, "--threads"),
        ({"input_depth": 10**9}, "--input-depth"),
        ({"rate": float("inf")}, "--lr"),
        ({"iterations": "5"}, "whole number"),
        ({"iterations": 2.5}, "whole number"),
        ({"iterations": True}, "whole number"),
        ({"rate": "fast"}, "finite number"),
        ({"network": 3}, "string"),
        ({"pad": "mirror"}, "reflection, zero"),
        ({"optimizer": "sgd"}, "adam, lbfgs"),
        ({"precision": "fp8"}, "auto, fp32, bf16"),
    ],
)
def test_a_setting_out_of_range_is_named(given: dict[str, Any], option: str) -> None:
    with pytest.raises(UsageError, match=option):
        Settings(**given)


def test_numbers_equal_their_strings() -> None:
    assert Settings(sigma=25, time=90.5, tile=256) == Settings(sigma="25", time="90.5", tile="256")
    assert Settings(max_memory=8e9).memory_limit() == Settings(max_memory=8 * 10**9).memory_limit() == 8 * 10**9
    assert {field.type for field in option_fields(Settings) if field.name in ("sigma", "tile")} == {str}


@pytest.mark.parametrize(
    ("given", "option"),
    [
        ({"sigma": -1}, "--sigma"),
        ({"time": 0}, "--time"),
        ({"tile": 20}, "--tile"),
        ({"max_memory": -1}, "--max-memory"),
        ({"sigma": True}, "--sigma"),
        ({"time": float("nan")}, "--time"),
    ],
)
def test_an_invalid_number_names_its_option(given: dict[str, Any], option: str) -> None:
    with pytest.raises(UsageError, match=option):
        Settings(**given)


def test_the_help_of_stop_lists_every_rule() -> None:
    (text,) = (field.help for field in option_fields(Settings) if field.name == "stop")
    for name, rule in rules().items():
        assert name in text
        assert rule.summary in text


@pytest.mark.parametrize(
    ("given", "option"),
    [
        ({"snapshot_every": 0}, "--snapshot-every"),
        ({"log_every": 0}, "--log-every"),
        ({"snapshot_at": "1,x"}, "1,10,100"),
        ({"snapshot_at": "0"}, "1,10,100"),
        ({"no_run_dir": True, "snapshot_at": "1"}, "--no-run-dir"),
        ({"no_run_dir": True, "run_dir": "x"}, "--no-run-dir"),
    ],
)
def test_an_output_option_out_of_range_is_named(given: dict[str, Any], option: str) -> None:
    with pytest.raises(UsageError, match=option):
        Outputs(**given)


def test_snapshots_are_a_list_of_iterations() -> None:
    assert Outputs(snapshot_at="1,10, 100").snapshot_iterations() == {1, 10, 100}
    assert Outputs().snapshot_iterations() == frozenset()

"""What all kits share: leaving checks out, errors as sentences, checks of options; and `meds plugins check`."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import SkipTest

import numpy as np
import pytest
import torch
from conftest import Finished
from kit_cases import caught, kit_of, registry_with
from pydantic import BaseModel, ConfigDict, Field, field_serializer
from test_registry import distribution

from meds.core.errors import PluginError, UserError
from meds.core.registry import Options, Registry
from meds.plugins.selection import MedianMad, MedianMadOptions
from meds.testing import SelectionRuleKit, StudentKit
from meds.testing.base import CheckError, Kit, check, modules_that_import_torch
from meds.testing.checking import KITS, kit_for, options_from, run_checks
from meds.testing.encoders import RandomCnn, RandomCnnOptions, RandomVit, RandomVitOptions
from meds.testing.plain_models import PlainStudent

REASON = {"test_bf16": "it is made of tables"}


class TestNothingToRun(SelectionRuleKit):
    """Collected by pytest: the checks of an installed plugin, one left out."""

    name = "median-mad"
    not_checked = {"test_selection_runs_with_it": "test_kit_builtin runs it"}


@pytest.mark.parametrize("override", [None, lambda self: None])
def test_a_check_needs_a_reason_to_go(override: Any) -> None:
    done = "removes" if override is None else "overrides"
    with pytest.raises(TypeError, match=rf"Mine {done} the check test_bf16: give the reason, not_checked = "):
        type("Mine", (StudentKit,), {"__module__": __name__, "test_bf16": override})


@pytest.mark.parametrize("reason", ["", "  ", None, 3])
def test_an_empty_reason_is_none(reason: Any) -> None:
    with pytest.raises(TypeError, match="leaving out or overriding 'test_bf16' needs a reason"):
        type("Mine", (StudentKit,), {"__module__": __name__, "not_checked": {"test_bf16": reason}})


def test_checks_without_reasons_are_refused() -> None:
    with pytest.raises(TypeError, match="must be a table of checks and reasons"):
        type("Mine", (StudentKit,), {"__module__": __name__, "not_checked": ["test_bf16"]})


def test_a_reason_for_an_unknown_check_is_refused() -> None:
    with pytest.raises(TypeError, match=r"the kit has no check 'test_bf61'; did you mean 'test_bf16'\?"):
        type("Mine", (StudentKit,), {"__module__": __name__, "not_checked": {"test_bf61": "no"}})


def test_a_mixin_may_not_hide_a_check() -> None:
    class Quiet:
        def test_bf16(self) -> None:
            """Looks at nothing."""

    with pytest.raises(TypeError, match="Mine overrides the check test_bf16"):
        type("Mine", (Quiet, StudentKit), {"__module__": __name__})


def test_a_check_that_is_taken_from_the_kit_itself_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(StudentKit, "test_training_defaults_are_sane")
    with pytest.raises(TypeError, match="Mine removes the check test_training_defaults_are_sane"):
        type("Mine", (StudentKit,), {"__module__": __name__})


def test_intermediate_classes_are_no_way_around() -> None:
    class Between(StudentKit):
        not_checked = REASON

        def test_bf16(self) -> None:
            """Another look."""

    class Below(Between):
        """Keeps the override with its reason."""

    assert Below.test_bf16 is Between.test_bf16
    with pytest.raises(TypeError, match="Mine overrides the check test_bf16"):
        type("Mine", (Between,), {"__module__": __name__, "not_checked": {}})


def test_a_class_below_may_take_a_check_in_again() -> None:
    class Between(StudentKit):
        not_checked = REASON

    class Below(Between):
        not_checked: dict[str, str] = {}

    with pytest.raises(SkipTest, match="it is made of tables"):
        Between().test_bf16()
    assert Below.test_bf16 is StudentKit.test_bf16


def test_an_override_with_a_reason_is_what_runs() -> None:
    class Mine(StudentKit):
        not_checked = REASON

        def test_bf16(self) -> None:
            raise CheckError("looked")

    with pytest.raises(CheckError, match="looked"):
        Mine().test_bf16()


def test_kits_are_collected_where_they_are_subclassed_only() -> None:
    class Mine(StudentKit):
        pass

    class MyBase(StudentKit):
        __test__ = False

    class BelowMyBase(MyBase):
        pass

    assert [kit.__test__ for kit in (Kit, StudentKit, Mine, MyBase, BelowMyBase)] == [False, False, True, False, True]


def test_pytest_collects_and_skips_as_it_should(tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text(
        "from meds.testing import SelectionRuleKit, StudentKit\n\n\n"
        "class TestMine(SelectionRuleKit):\n"
        '    name = "median-mad"\n'
        '    not_checked = {name: "another time" for name in SelectionRuleKit.checks if name != "test_it_loads"}\n'
    )
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    left_out = len(SelectionRuleKit.checks) - 1
    assert f"1 passed, {left_out} skipped" in done.stdout, done.stdout
    assert "another time" in done.stdout


@pytest.mark.parametrize("kind", KITS)
def test_every_check_says_what_it_checks(kind: str) -> None:
    for name, method in KITS[kind].checks.items():
        assert (method.__doc__ or "").endswith("."), name


def test_an_error_of_a_plugin_becomes_a_sentence_with_its_place() -> None:
    class Breaks(StudentKit):
        name = "rd"

        @check
        def test_more(self) -> None:
            {}["nothing"]

    with pytest.raises(
        CheckError, match=r"The student 'rd' raised KeyError: 'nothing' \(.*test_kit.py:\d+\)"
    ) as raised:
        Breaks().test_more()
    assert isinstance(raised.value.__cause__, KeyError)


def test_a_check_leaves_the_process_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    class Untidy(StudentKit):
        @check
        def test_more(self) -> None:
            assert "MEDS_CHECKPOINT_SECONDS" not in os.environ
            os.environ["MEDS_CACHE_GIB"] = "1"
            torch.manual_seed(99)
            torch.set_num_threads(2)
            np.random.seed(99)
            random.seed(99)

    def state() -> list[Any]:
        return [torch.get_rng_state().tolist(), torch.get_num_threads(), np.random.get_state()[2], random.getstate()]

    monkeypatch.setenv("MEDS_CHECKPOINT_SECONDS", "7")
    before = state()
    Untidy().test_more()
    assert state() == before
    assert os.environ["MEDS_CHECKPOINT_SECONDS"] == "7"
    assert "MEDS_CACHE_GIB" not in os.environ


def test_a_kit_without_a_name_says_so() -> None:
    with pytest.raises(CheckError, match="must say which plugin it checks: set `name`"):
        type("Mine", (StudentKit,), {"__module__": __name__})().test_it_loads()


class Lenient(Options):
    model_config = ConfigDict(extra="ignore")


class Counting(Options):
    start: int = 0

    @field_serializer("start")
    def _one_more(self, value: int) -> int:
        return value + 1


class NoOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Undescribed(Options):
    depth: int = 2
    width: int = Field(default=4, description="Channels.")


class Empty(Undescribed):
    width: int = Field(default=4, description=" ")


class Strict(Options):
    width: int = Field(ge=4)


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("test_unknown_options_are_refused", Lenient, "accepts the option 'no_such_option'"),
        ("test_options_survive_a_spec", Counting, "does not get its options back from a written spec"),
        ("test_options_are_described", Undescribed, "does not say what its option depth means: write Field"),
        ("test_options_are_described", Empty, "does not say what its options depth, width mean: write Field"),
        ("test_it_loads", NoOptions, "needs options that are a subclass of Options"),
        ("test_unknown_options_are_refused", Strict, "raised ValidationError"),
    ],
)
def test_options_that_break_the_contract_are_caught(name: str, options: Any, sentence: str) -> None:
    caught(StudentKit, PlainStudent, name, sentence, options)


def test_a_summary_is_a_sentence() -> None:
    known = registry_with("student", PlainStudent, summary="my student")
    kit = kit_of(StudentKit, PlainStudent, registry=lambda self: known)
    with pytest.raises(CheckError, match="needs a summary that is a sentence, not 'my student'"):
        kit.test_it_loads()


def test_a_package_whose_listing_imports_torch_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distribution(tmp_path, "heavy", "heavy_hooks", "import torch\n")
    distribution(tmp_path, "light", "light_hooks", "import json\n")
    distribution(tmp_path, "breaks", "breaking_hooks", "import nothing_of_that_name\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert modules_that_import_torch("light") == ()
    with pytest.raises(CheckError, match="The package breaks cannot be listed: ModuleNotFoundError"):
        modules_that_import_torch("breaks")
    known = registry_with("student", PlainStudent)
    found = known._by_kind["student"]["broken"]
    known._by_kind["student"]["broken"] = replace(found, package="heavy")
    kit = kit_of(StudentKit, PlainStudent, registry=lambda self: known)
    with pytest.raises(CheckError, match=r"The package heavy imports torch .* in heavy_hooks: keep the hook"):
        kit.test_listing_imports_no_torch()


def test_a_plugin_of_no_package_cannot_be_listed() -> None:
    with pytest.raises(SkipTest, match="no installed package registers it"):
        kit_of(StudentKit, PlainStudent).test_listing_imports_no_torch()


def test_the_encoders_of_the_kit_are_as_the_contract_says() -> None:
    cnn, vit = RandomCnn(RandomCnnOptions()), RandomVit(RandomVitOptions())
    assert [layer.name for layer in cnn.layers] == ["stride2", "stride4", "stride8", "stride16", "stride32"]
    assert [(layer.height, layer.width) for layer in cnn.layers] == [(32, 32), (16, 16), (8, 8), (4, 4), (2, 2)]
    assert [layer.signed for layer in cnn.layers] == [False, True, False, True, False]
    assert [layer.name for layer in vit.layers] == [
        *(f"block{i}" for i in range(12)),
        *(f"prefix{i}" for i in range(12)),
        "final",
    ]
    assert (vit.layer("prefix3").height, vit.layer("prefix3").width, vit.final_layer) == (1, 5, "final")
    with pytest.raises(PluginError, match="patches of 8x8"):
        RandomVit(RandomVitOptions(image_size=60))


def test_options_on_the_command_line_are_yaml() -> None:
    assert options_from(["depth=2", "layers=[a, b]", "width=null"]) == {"depth": 2, "layers": ["a", "b"], "width": None}
    for text, sentence in (("depth", "write an option as key=value"), ("depth=[", "not valid YAML")):
        with pytest.raises(UserError, match=sentence):
            options_from([text])


def test_outcomes_tell_why() -> None:
    class Falling(MedianMad):
        def threshold(self, scores, factor):
            return super().threshold(scores, -factor)

    kit = kit_of(SelectionRuleKit, Falling, MedianMadOptions, not_checked={"test_selection_runs_with_it": "no"})
    found = {outcome.check: (outcome.result, outcome.sentence) for outcome in run_checks(kit)}
    assert sorted(found) == sorted(SelectionRuleKit.checks)
    assert found["test_selection_runs_with_it"] == ("left out", "no")
    assert found["test_a_larger_factor_keeps_what_was_selected"][0] == "failed"
    assert "fall while the factor grows" in found["test_a_larger_factor_keeps_what_was_selected"][1]
    assert found["test_unknown_options_are_refused"] == ("passed", "")


def test_what_does_not_load_is_looked_at_no_further() -> None:
    first, *others = run_checks(kit_of(SelectionRuleKit, object))
    assert (first.check, first.result) == ("test_it_loads", "failed")
    assert {(other.result, other.sentence) for other in others} == {("left out", "it does not load")}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("mvtec",), "The dataset 'mvtec' needs --set path=VALUE."),
        (("median-mad", "--set", "medain=lower"), "--set medain: unknown option 'medain'; did you mean 'median'?"),
        (("median-mad", "--set", "median=3"), "--set median: Input should be 'lower' or 'middle'."),
        (("median-mad", "--set", "median"), "--set median: write an option as key=value"),
        (("median-mad", "--kind", "studnet"), "unknown kind of plugin 'studnet'; did you mean 'student'?"),
    ],
)
def test_mistakes_on_the_command_line(meds: Callable[..., Finished], arguments: Any, sentence: str) -> None:
    done = meds("plugins", "check", *arguments)
    assert (done.code, done.out) == (2, "")
    assert sentence in done.err


def test_the_command_checks_a_plugin(meds: Callable[..., Finished]) -> None:
    done = meds("plugins", "check", "median-mad", "--set", "median=middle")
    assert done.code == 0, done.err
    assert f"{len(SelectionRuleKit.checks)} passed." in done.out
    assert "test_order_of_images_plays_no_part" in done.out
    rows = json.loads(meds("plugins", "check", "median-mad", "--json").out)
    assert {row["result"] for row in rows} == {"passed"}
    assert set(rows[0]) == {"check", "result", "seconds", "sentence"}


def test_the_command_shows_what_failed(meds: Callable[..., Finished], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meds.plugins.selection.MedianMad.threshold", lambda self, scores, factor: float("nan"))
    done = meds("plugins", "check", "median-mad")
    assert done.code == 1
    assert "test_thresholds_are_finite: The selection rule 'median-mad' gives a threshold for a hundred" in done.said
    assert "failed" in done.out
    assert "Traceback" not in done.err


def test_the_command_says_why_checks_are_left_out(
    meds: Callable[..., Finished], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("meds.plugins.selection.MedianMad")
    done = meds("plugins", "check", "median-mad")
    assert done.code == 1
    assert "test_it_loads: The selection rule 'median-mad' raised PluginError: The selection rule" in done.said
    assert "Left out: it does not load (test_a_larger_factor_keeps_what_was_selected, test_earlier_" in done.said
    assert f"1 failed, {len(SelectionRuleKit.checks) - 1} left out." in done.out


def test_a_name_of_two_kinds_and_an_unknown_one(meds: Callable[..., Finished], monkeypatch: pytest.MonkeyPatch) -> None:
    done = meds("plugins", "check", "median-made")
    assert (done.code, done.out) == (2, "")
    assert "unknown plugin 'median-made'; did you mean 'median-mad'?" in done.err
    both = Registry()
    both._by_kind = {
        **registry_with("student", PlainStudent)._by_kind,
        "dataset": registry_with("dataset", object)._by_kind["dataset"],
    }
    monkeypatch.setattr("meds.core.registry.registry", lambda: both)
    done = meds("plugins", "check", "broken")
    assert done.code == 2
    assert "'broken' is a dataset and a student; say which with --kind." in done.err


@pytest.mark.parametrize(
    ("kind", "name", "kit"),
    [
        ("dataset", "synthetic", "DatasetKit"),
        ("backbone", "efficientnet-lite0", "BackboneKit"),
        ("student", "rd", "StudentKit"),
        ("student", "plain-detector", "DetectorKit"),
        ("stage", "memory", "StageKit"),
        ("selection rule", "median-mad", "SelectionRuleKit"),
        ("logger", "broken", "RunLoggerKit"),
    ],
)
def test_every_kind_has_its_kit(kind: str, name: str, kit: str) -> None:
    assert type(kit_for(registry_with("logger", object).get(kind, name))).__name__ == kit


def test_an_encoder_on_the_command_line() -> None:
    known = registry_with("student", PlainStudent)
    kit: Any = kit_for(known.get("student", "broken"), backbone="efficientnet-lite0")
    assert kit.backbone == {"type": "efficientnet-lite0", "image_size": 64}
    with pytest.raises(PluginError, match=r"unknown backbone 'efficientnet'; did you mean 'efficientnet-lite0'\?"):
        kit_for(known.get("student", "broken"), backbone="efficientnet")
    with pytest.raises(PluginError, match="--backbone is for students and detectors, and 'memory' is a stage"):
        kit_for(known.get("stage", "memory"), backbone="efficientnet-lite0")

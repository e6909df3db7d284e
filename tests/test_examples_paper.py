"""The specs of the paper's tables: complete, resolvable without data, and with the published lengths."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest
import timm
from conftest import Finished

from meds.comparison.cases import cases, spec_of
from meds.core.registry import load_registry
from meds.core.spec import Spec, load_spec
from meds.core.spec_source import read_spec

FOLDER = Path(__file__).parents[1] / "examples" / "paper"
DATASETS = ("mvtec", "visa", "real-iad")
STUDENTS = ("dinomaly", "inp-former", "hvq", "rd")
METHODS = ("plain", "meds")
DINOV2 = ("vit_base_patch14_reg4_dinov2.lvd142m", 392, 448)
BACKBONES = {
    "dinomaly": DINOV2,
    "inp-former": DINOV2,
    "hvq": ("tf_efficientnet_b4.aa_in1k", 224, None),
    "rd": ("wide_resnet50_2.tv_in1k", 256, None),
}


def read(dataset: str, student: str, method: str, *overrides: str) -> Spec:
    return load_spec(FOLDER / f"{dataset}-{student}-{method}.yaml", load_registry(), overrides)


def test_there_is_a_spec_for_every_row() -> None:
    wanted = {f"{d}-{s}-{m}.yaml" for d, s, m in product(DATASETS, STUDENTS, METHODS)}
    assert {path.name for path in FOLDER.iterdir()} == wanted


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("student", STUDENTS)
@pytest.mark.parametrize("dataset", DATASETS)
def test_a_spec_is_what_its_name_says(dataset: str, student: str, method: str) -> None:
    spec = read(dataset, student, method)
    assert (spec.dataset.type, spec.student.type, spec.name) == (dataset, student, f"{dataset}-{student}-{method}")
    assert spec.classes == ("separate" if dataset == "real-iad" else "unified")
    backbone = spec.backbone.options
    assert (backbone.model, backbone.image_size, backbone.resize) == BACKBONES[student]
    stages = [stage.type for stage in spec.stages]
    assert stages == (
        ["fit", "evaluate"] if method == "plain" else ["memory", "distill", "select-finetune", "evaluate"]
    )


def test_timm_has_weights_for_every_backbone() -> None:
    assert {model for model, *_ in BACKBONES.values()} <= set(timm.list_pretrained())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("student", STUDENTS)
@pytest.mark.parametrize("dataset", DATASETS)
def test_every_spec_plans(dataset: str, student: str, method: str, meds: Callable[..., Finished]) -> None:
    done = meds("plan", FOLDER / f"{dataset}-{student}-{method}.yaml", "--without-data")
    assert done.code == 0, done.err


@pytest.mark.parametrize("student", STUDENTS)
@pytest.mark.parametrize("dataset", DATASETS)
def test_the_plain_row_of_compare_is_the_plain_spec(dataset: str, student: str) -> None:
    """But for what ranks the training images and for the rest of an epoch, in which it follows the full method."""
    (case,) = cases([read_spec(FOLDER / f"{dataset}-{student}-meds.yaml")], methods=["plain"])
    derived, plain = spec_of(case, load_registry()).dump(), read(dataset, student, "plain").dump()
    assert derived["student"] == plain["student"]
    whole = read(dataset, student, "meds").dump()["stages"]
    assert derived["stages"][0].pop("drop_last") == whole[2]["drop_last"]
    del plain["stages"][0]["drop_last"]
    assert derived["stages"][1].pop("ranking") == whole[3]["ranking"]
    del plain["stages"][1]["ranking"]
    assert derived["stages"] == plain["stages"]


@pytest.mark.parametrize("student", STUDENTS)
def test_specs_plan_without_data_and_weights(student: str, meds: Callable[..., Finished]) -> None:
    spec = FOLDER / f"visa-{student}-meds.yaml"
    done = meds("plan", spec, "--without-data")
    assert done.code == 0, done.err
    for word in ("visa", "select-finetune", "critical_value 1.0", "data/VisA"):
        assert word in done.said
    listed = json.loads(meds("plan", spec, "--without-data", "--json").out)
    assert [stage["type"] for stage in listed["stages"]] == ["memory", "distill", "select-finetune", "evaluate"]
    missing = meds("plan", spec)
    assert missing.code == 2
    assert "data/VisA: there is no such folder; check `dataset.path`" in missing.said


def test_lengths_and_mining_differ_within_meds() -> None:
    def options(student: str, method: str):
        return read("mvtec", student, method).student.options

    assert [options("dinomaly", m).discard_rate for m in METHODS] == [0.9, 0.5]
    assert [options("inp-former", m).epochs for m in METHODS] == [200, 100]
    assert [options("hvq", m).epochs for m in METHODS] == [1000, 200]
    assert [options("rd", m).epochs for m in METHODS] == [200, 200]
    assert [options("hvq", m).drop_at for m in METHODS] == [0.8, 1.0]
    assert options("dinomaly", "plain").iterations is None


def test_numbers_and_padding_are_as_published() -> None:
    specs = [read(*row) for row in product(DATASETS, STUDENTS, METHODS)]
    assert {spec.precision for spec in specs} == {"fp32"}
    assert {read(d, "hvq", m).backbone.options.padding_size for d, m in product(DATASETS, METHODS)} == {380}
    assert {read(d, "rd", "meds").stages[2].options.batch_statistics for d in DATASETS} == {"selected"}


def test_what_is_written_wins_over_the_selecting_values() -> None:
    spec = read("mvtec", "dinomaly", "meds", "student.discard_rate=0.7")
    assert spec.student.options.discard_rate == 0.7


def test_single_class_dinomaly_trains_half_as_long() -> None:
    assert read("real-iad", "dinomaly", "plain").stages[0].options.iterations == 5000
    assert read("real-iad", "dinomaly", "meds").stages[2].options.iterations == 5000


def test_noise_is_set_from_outside() -> None:
    assert read("mvtec", "rd", "meds", "noise.ratio=0.4").noise.options.ratio == 0.4
    assert read("visa", "rd", "meds", "noise={list: lists/visa.csv}").noise.type == "list"
    spec = read("real-iad", "rd", "meds", "dataset.lists=realiad_jsons_fuiad_0.4")
    assert spec.noise is None
    assert spec.dataset.options.lists == "realiad_jsons_fuiad_0.4"

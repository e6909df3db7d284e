"""Everything that ships with meds passes the conformance kit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from meds.core.registry import OWN_DISTRIBUTION, Registry, load_registry
from meds.testing import (
    BackboneKit,
    DatasetKit,
    DetectorKit,
    NoiseProtocolKit,
    RunLoggerKit,
    SelectionRuleKit,
    StageKit,
    StudentKit,
)
from meds.testing.base import Kit
from meds.testing.noise_protocols import example_records

RANDOM = {"pretrained": False, "image_size": 64}
SHORT = {"iterations": 2, "batch_size": 4}


class TestDinomaly(StudentKit):
    name = "dinomaly"
    options = {"depth": 2, "width": 16}  # a width is for CNNs only
    backbones = ("cnn",)


class TestDinomalyOnAViT(StudentKit):
    name = "dinomaly"
    options = {"depth": 2}
    backbones = ("vit",)
    not_checked = {"test_unsuitable_encoders_are_refused": "it takes a CNN too, where the class above checks this"}


class TestINPFormer(TestDinomaly):
    name = "inp-former"


class TestINPFormerOnAViT(TestDinomalyOnAViT):
    name = "inp-former"


class TestHVQ(StudentKit):
    name = "hvq"
    options = {"width": 16, "heads": 2, "feedforward": 24, "codes": 12, "levels": 2}
    backbones = ("cnn",)


class TestHVQAsPublished(TestHVQ):
    options = {**TestHVQ.options, "codebook_start": "published", "transport_score": True}


class TestRD(StudentKit):
    name = "rd"
    options = {"blocks": [1, 1, 1], "bottleneck_blocks": 1}
    backbones = ("cnn",)


class TestPlainDetector(DetectorKit):
    name = "plain-detector"
    backbones = ("cnn", "vit")


class TestRandomCnn(BackboneKit):
    name = "random-cnn"
    other_encoders = ({"seed": 1}, {"stages": 4})


class TestRandomVit(BackboneKit):
    name = "random-vit"
    other_encoders = ({"seed": 1}, {"blocks": 2})


class TestEfficientNetLite0(BackboneKit):
    name = "efficientnet-lite0"
    options = RANDOM
    other_encoders = ({"seed": 1},)


class TestDINOv2Small(BackboneKit):
    name = "dinov2-small"
    options = {"pretrained": False, "image_size": 56}
    other_encoders = ({"seed": 1},)


class TestTimm(BackboneKit):
    name = "timm"
    options = {**RANDOM, "model": "resnet18"}
    other_encoders = ({"model": "resnet10t"},)


class TestMemory(StageKit):
    name = "memory"


class TestDistill(StageKit):
    name = "distill"
    options = SHORT


class TestSelectFinetune(StageKit):
    name = "select-finetune"
    options = {**SHORT, "minimum_selected": 1}


class TestFit(StageKit):
    name = "fit"
    options = SHORT


class TestEvaluate(StageKit):
    name = "evaluate"
    options = {"map_size": 32}


class TestMedianMad(SelectionRuleKit):
    name = "median-mad"


class TestTensorBoard(RunLoggerKit):
    name = "tensorboard"


class TestInject(NoiseProtocolKit):
    name = "inject"
    options = {"ratio": 0.2}


class TestInjectWithoutOverlap(TestInject):
    options = {"ratio": 2.0, "overlap": False, "shortage": "drop-normals"}


class Folders:
    """Small data sets in the layouts that the dataset plugins read."""

    def __init__(self, root: Path) -> None:
        self.root, self.random = root, np.random.default_rng(0)
        for name in ("bolt", "nut"):
            self._mvtec(name)
            self._visa(name)
            self._masked(name)
            self._real_iad(name)
        rows = [row for name in ("bolt", "nut") for row in self._visa_rows(name)]
        self._text("visa/split_csv/1cls.csv", "\n".join(["object,split,label,image,mask", *rows]) + "\n")
        listed = [record.path for record in example_records() if record.split == "train"]
        listed += [f"bolt/test/dent/{i:03}.png" for i in (1, 3)]
        self._text("noise.csv", "\n".join(["filename", *listed]) + "\n")

    def _text(self, place: str, text: str) -> None:
        (self.root / place).parent.mkdir(parents=True, exist_ok=True)
        (self.root / place).write_text(text, encoding="utf-8")

    def _image(self, place: str) -> None:
        self._save(place, self.random.integers(0, 256, (9, 12, 3)).astype(np.uint8))

    def _mask(self, place: str) -> None:
        mask = np.zeros((9, 12), np.uint8)
        mask[2:5, 3:7] = 255
        self._save(place, mask)

    def _save(self, place: str, pixels: Any) -> None:
        (self.root / place).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(self.root / place)

    def _mvtec(self, name: str) -> None:
        for part, count in (("train/good", 4), ("test/good", 2), ("test/dent", 3)):
            for number in range(count):
                self._image(f"mvtec/{name}/{part}/{number:03}.png")
        for number in range(3):
            self._mask(f"mvtec/{name}/ground_truth/dent/{number:03}_mask.png")

    def _visa_rows(self, name: str) -> list[str]:
        images = [("train", "normal", i) for i in range(3)] + [("test", "normal", 3), ("test", "anomaly", 0)]
        rows = []
        for split, label, number in images:
            image, mask = f"{name}/Data/Images/{label.capitalize()}/{number:04}.png", ""
            if label == "anomaly":
                mask = f"{name}/Data/Masks/Anomaly/{number:04}.png"
            rows.append(f"{name},{split},{label},{image},{mask}")
        return rows

    def _visa(self, name: str) -> None:
        for row in self._visa_rows(name):
            *_, image, mask = row.split(",")
            self._image(f"visa/{image}")
            if mask:
                self._mask(f"visa/{mask}")

    def _masked(self, name: str) -> None:
        for part in ("train", "test"):
            for number in range(3):
                self._image(f"masked/{part}/{name}{number}.png")
            self._mask(f"masked/{part}/{name}0_GT.png")

    def _real_iad(self, name: str) -> None:
        def entry(number: int, mask: bool = False) -> dict[str, Any]:
            image = f"{'NG' if mask else 'OK'}/S{number:04}/{name}_{number:04}_C1_1.png"
            self._image(f"real-iad/realiad_256/{name}/{image}")
            if mask:
                self._mask(f"real-iad/realiad_256/{name}/{image}".replace(".png", "_mask.png"))
            return {
                "anomaly_class": "AK" if mask else "OK",
                "image_path": image,
                "mask_path": image.replace(".png", "_mask.png") if mask else None,
            }

        content = {
            "meta": {"prefix": f"{name}/", "normal_class": "OK"},
            "train": [entry(1), entry(2), entry(3, mask=True)],
            "test": [entry(4), entry(5, mask=True)],
        }
        self._text(f"real-iad/realiad_jsons/{name}.json", json.dumps(content))


@pytest.fixture(scope="module", autouse=True)
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests run in the folder that holds the data sets, so that options name them by relative paths."""
    root = tmp_path_factory.mktemp("datasets")
    Folders(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        yield


class TestMvtec(DatasetKit):
    name = "mvtec"
    options = {"path": "mvtec"}


class TestFolder(DatasetKit):
    name = "folder"
    options = {"path": "mvtec/bolt/train/good"}


class TestLabelledFolder(DatasetKit):
    name = "folder"
    options = {
        "path": "mvtec/bolt",
        "normal": "train/good",
        "abnormal": "test/dent",
        "mask": "ground_truth/dent",
    }


class TestMasked(DatasetKit):
    name = "masked"
    options = {"path": "masked", "ending": "_GT", "train": "train", "test": "test"}


class TestVisa(DatasetKit):
    name = "visa"
    options = {"path": "visa"}


class TestRealIad(DatasetKit):
    name = "real-iad"
    options = {"path": "real-iad"}


class TestSynthetic(DatasetKit):
    name = "synthetic"
    options = {"train": 3, "test_normal": 2, "test_defective": 2, "image_size": 32}


class TestElpv(DatasetKit):
    name = "elpv"


class TestList(NoiseProtocolKit):
    name = "list"
    options = {"list": "noise.csv"}


def every_kit(base: type[Kit] = Kit) -> Iterator[type[Kit]]:
    for kit in base.__subclasses__():
        yield from every_kit(kit)
        if kit.__module__ == __name__:
            yield kit


def test_every_built_in_plugin_is_here() -> None:
    checked = {(kit.kind, kit.name) for kit in every_kit()}
    found: Registry = load_registry()
    own = {(item.kind, item.plugin.name) for item in found.all() if item.package == OWN_DISTRIBUTION}
    assert own <= checked


def test_students_that_take_both_families_are_checked_on_both() -> None:
    taken = {(kit.name, *kit.backbones) for kit in every_kit() if issubclass(kit, StudentKit)}
    assert taken >= {(name, family) for name in ("dinomaly", "inp-former") for family in ("cnn", "vit")}

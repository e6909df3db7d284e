"""The datasets that ship with meds: layouts, labels, masks, splits, determinism and error sentences."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from meds.core.dataset import Record
from meds.core.errors import DataError
from meds.plugins.datasets import elpv, folder, mvtec, synthetic
from meds.plugins.datasets.elpv import ElpvDataset, ElpvOptions
from meds.plugins.datasets.folder import FolderDataset, FolderOptions
from meds.plugins.datasets.mvtec import MvtecDataset, MvtecOptions


def put(root: Path, *names: str) -> None:
    """Write a small image at each of the paths."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((6, 8), 200, np.uint8)).save(root / name)


def kinds(records: Sequence[Record]) -> Counter[tuple[object, ...]]:
    return Counter((r.split, r.label, r.defect, r.mask is not None) for r in records)


@pytest.mark.parametrize("module", [mvtec, folder, elpv, synthetic])
def test_every_module_registers_a_described_plugin(module) -> None:
    (plugin,) = module.meds_datasets()
    module_name, _, class_name = plugin.load.partition(":")
    assert module_name == module.__name__
    assert hasattr(module, class_name)
    assert plugin.summary
    assert all(field.description for field in plugin.options.model_fields.values())


def test_datasets_are_listed_without_torch() -> None:
    modules = ", ".join(module.__name__ for module in (mvtec, folder, elpv, synthetic))
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.fixture
def bottle(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    put(root / "bottle", "train/good/1.png", "train/good/0.png", "train/scratch/0.png", "test/good/0.png")
    put(root / "bottle", "test/ok/9.png", *(f"test/scratch/{stem}.JPG" for stem in "0123"))
    put(root / "bottle/ground_truth/scratch", "0_mask.png", "1.png", "2_mask.bmp")
    put(root / "cable", "train/good/0.png")
    put(root / "notes", "0.png")
    return root


def test_mvtec_layout(bottle: Path) -> None:
    records = MvtecDataset(MvtecOptions(path=bottle, classes=["bottle"])).records()
    assert kinds(records) == {
        ("train", 0, "good", False): 2,
        ("train", 1, "scratch", False): 1,
        ("test", 0, "good", False): 2,
        ("test", 1, "scratch", True): 3,
        ("test", 1, "scratch", False): 1,
    }
    assert [r.path for r in records[:2]] == [str(bottle / "bottle/train/good" / n) for n in ("0.png", "1.png")]
    masks = {Path(r.path).stem: r.mask and Path(r.mask).name for r in records if r.defect == "scratch" != r.split}
    assert [masks[stem] for stem in "0123"] == ["0_mask.png", "1.png", "2_mask.bmp", None]


def test_mvtec_root_or_class_folder(bottle: Path) -> None:
    every = MvtecDataset(MvtecOptions(path=bottle)).records()
    assert sorted({r.class_name for r in every}) == ["bottle", "cable"]
    one = MvtecDataset(MvtecOptions(path=bottle / "bottle")).records()
    assert one == [r for r in every if r.class_name == "bottle"]
    reordered = MvtecDataset(MvtecOptions(path=bottle, classes=["cable", "bottle"])).records()
    assert reordered == every


def test_mvtec_reads_what_it_lists(bottle: Path) -> None:
    dataset = MvtecDataset(MvtecOptions(path=bottle))
    record = next(r for r in dataset.records() if r.mask)
    assert dataset.read_image(record).shape == (6, 8, 3)
    mask = dataset.read_mask(record)
    assert mask is not None
    assert mask.all()
    assert dataset.image_size(record) == dataset.mask_size(record) == (6, 8)
    normal = next(r for r in dataset.records() if r.label == 0)
    assert dataset.read_mask(normal) is None
    assert dataset.mask_size(normal) is None
    assert len(dataset.digest(normal)) == 64


def test_mvtec_paths_are_kept_as_given(bottle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(bottle / "bottle")
    record = MvtecDataset(MvtecOptions(path=Path())).records()[0]
    assert record.path == "train/good/0.png"
    assert record.class_name == "bottle"


def test_mvtec_errors(bottle: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such folder; check `dataset.path`"):
        MvtecDataset(MvtecOptions(path=tmp_path / "nothing")).records()
    with pytest.raises(DataError, match=r"no class 'botle'; `dataset.classes` can name: bottle, cable\."):
        MvtecDataset(MvtecOptions(path=bottle, classes=["botle"])).records()
    with pytest.raises(DataError, match="<class>/train/good"):
        MvtecDataset(MvtecOptions(path=bottle / "notes")).records()
    (tmp_path / "empty/train/good").mkdir(parents=True)
    with pytest.raises(DataError, match="no training image"):
        MvtecDataset(MvtecOptions(path=tmp_path / "empty")).records()


def test_folder_of_unlabelled_images(tmp_path: Path) -> None:
    put(tmp_path / "parts", "b.png", "a.JPG", ".hidden.png", "deep/c.png")
    records = FolderDataset(FolderOptions(path=tmp_path / "parts")).records()
    assert [(Path(r.path).name, r.class_name) for r in records] == [("a.JPG", "parts"), ("b.png", "parts")]
    assert kinds(records) == {("train", None, None, False): 2}
    deep = FolderDataset(FolderOptions(path=tmp_path / "parts", recursive=True, class_name="x")).records()
    assert [Path(r.path).name for r in deep] == ["a.JPG", "b.png", "c.png"]
    assert {r.class_name for r in deep} == {"x"}


def test_folder_with_normal_images_only(tmp_path: Path) -> None:
    put(tmp_path, "fine/0.png", "fine/1.png")
    records = FolderDataset(FolderOptions(path=tmp_path, normal=Path("fine"))).records()
    assert kinds(records) == {("train", 0, "good", False): 2}


@pytest.fixture
def sorted_parts(tmp_path: Path) -> Path:
    put(
        tmp_path,
        *(f"fine/{index}.png" for index in range(10)),
        "broken/0.png",
        "broken/1.png",
        "masks/1_mask.png",
    )
    return tmp_path


def test_folder_with_known_defects(sorted_parts: Path) -> None:
    given = {"path": sorted_parts, "normal": "fine", "abnormal": "broken", "mask": "masks"}
    records = FolderDataset(FolderOptions(**given)).records()
    assert kinds(records) == {
        ("train", 0, "good", False): 6,
        ("test", 0, "good", False): 4,
        ("test", 1, "broken", True): 1,
        ("test", 1, "broken", False): 1,
    }
    assert records == FolderDataset(FolderOptions(**given)).records()
    other = FolderDataset(FolderOptions(**given, seed=1)).records()
    assert {r.path for r in other} == {r.path for r in records}
    assert other != records
    more = FolderDataset(FolderOptions(**given, test_fraction=0.7)).records()
    assert kinds(more)["train", 0, "good", False] == 3


def test_folder_paths_of_their_own_and_nested_folders(sorted_parts: Path) -> None:
    put(sorted_parts, "top.png", "next.png", "broken/dent/0.png", "masks/dent/0.png")
    options = FolderOptions(
        path=sorted_parts, normal=".", abnormal=sorted_parts / "broken", mask="masks", recursive=True
    )
    records = FolderDataset(options).records()
    normal = {Path(r.path).relative_to(sorted_parts).parts[0] for r in records if r.label == 0}
    assert normal == {"fine", "top.png", "next.png"}
    dent = next(r for r in records if r.defect == "dent")
    assert dent.mask == str(sorted_parts / "masks/dent/0.png")


def test_folder_does_not_guess_labels(sorted_parts: Path) -> None:
    (sorted_parts / "fine").rename(sorted_parts / "good")
    (sorted_parts / "broken").rename(sorted_parts / "Bad")
    with pytest.raises(DataError, match=r"set `dataset.normal: good` and `dataset.abnormal: Bad`"):
        FolderDataset(FolderOptions(path=sorted_parts)).records()


def test_folder_errors(tmp_path: Path, sorted_parts: Path) -> None:
    def sentence(**options: object) -> str:
        with pytest.raises(DataError) as caught:
            FolderDataset(FolderOptions(**{"path": sorted_parts, **options})).records()
        return str(caught.value)

    assert "no such folder; check `dataset.path`" in sentence(path=tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    assert "holds no image; put images there (.bmp," in sentence(path=tmp_path / "empty")
    assert "`dataset.recursive: true`" in sentence()
    put(tmp_path, "one/0.png", "bottle/train/good/0.png", "two/0.png", "two/1.png")
    assert "needs at least 2" in sentence(path=tmp_path / "one")
    assert "needs at least 2" in sentence(normal="two", abnormal="broken")
    assert "`dataset.type: mvtec`" in sentence(path=tmp_path / "bottle")
    assert "check `dataset.normal`" in sentence(normal="nowhere")
    assert "different folders" in sentence(normal="fine", abnormal="fine")
    assert "`dataset.abnormal` holds no image" in sentence(normal="fine", abnormal="empty")
    assert "rename the masks" in sentence(normal="fine", abnormal="broken", mask="empty")


@pytest.mark.parametrize("options", [{"abnormal": "a"}, {"normal": "a", "mask": "m"}, {"test_fraction": 1}])
def test_folder_options_that_do_not_fit(options: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        FolderOptions(path=".", **options)


def test_elpv_counts() -> None:
    pytest.importorskip("elpv_dataset")
    dataset = ElpvDataset(ElpvOptions())
    mono = dataset.records()
    assert kinds(mono) == {
        ("train", 0, "good", False): 353,
        ("test", 0, "good", False): 235,
        ("test", 1, "defective", False): 313,
    }
    assert dataset.read_image(mono[0]).shape == (300, 300, 3)
    every = ElpvDataset(ElpvOptions(cells="all")).records()
    assert every[: len(mono)] == mono
    assert every[len(mono) :] == ElpvDataset(ElpvOptions(cells="poly")).records()
    assert kinds(every[len(mono) :]) == {
        ("train", 0, "good", False): 552,
        ("test", 0, "good", False): 368,
        ("test", 1, "defective", False): 402,
    }
    other = ElpvDataset(ElpvOptions(seed=1)).records()
    assert {r.path for r in other} == {r.path for r in mono}
    assert other != mono
    assert len({r.path for r in every}) == len(every)


def test_elpv_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elpv, "PACKAGE", "a_package_that_does_not_exist")
    with pytest.raises(DataError, match="pip install elpv-dataset"):
        ElpvDataset(ElpvOptions()).records()


def test_elpv_damaged(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(elpv, "_data_folder", lambda: tmp_path)
    for content in (None, "images/cell0001.png mono\n"):
        if content:
            (tmp_path / "labels.csv").write_text(content)
        with pytest.raises(DataError, match=r"labels\.csv: .*reinstall it"):
            ElpvDataset(ElpvOptions()).records()


class Inverted(FolderDataset):
    """Gives other pixels than the files hold."""

    def read_image(self, record: Record) -> np.ndarray:
        return 255 - super().read_image(record)


def test_a_dataset_with_images_of_its_own_has_digests_of_their_pixels(tmp_path: Path) -> None:
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(6, 8)).save(tmp_path / "0.png")
    shutil.copy(tmp_path / "0.png", tmp_path / "1.png")
    plain, inverted = (kind(FolderOptions(path=tmp_path)) for kind in (FolderDataset, Inverted))
    first, second = inverted.records()
    assert inverted.digest(first) == inverted.digest(second) != plain.digest(first)

"""`meds-anomalib export`: the lists, the links and the numbers, and that anomalib reads them."""

from __future__ import annotations

import csv
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from anomalib_cases import draw, draw_mask, meds_anomalib, needs_anomalib, run_spec

RANKING = ("rank", "path", "class", "score", "selected", "injected")
DATA = ("path", "sha256", "class", "split", "label", "defect", "mask", "injected")


@dataclass
class FakeRun:
    """The public files of a run with images of 32 x 32 pixels."""

    root: Path
    dataset: str = "mvtec"
    ranking: list[tuple[Any, ...]] = field(default_factory=list)
    data: list[tuple[Any, ...]] = field(default_factory=list)

    def train(self, name: str, selected: bool, injected: bool = False, class_name: str = "bolt") -> Path:
        path = draw(self.root / "images" / class_name / name, seed=len(self.data))
        self.ranking.append((len(self.ranking) + 1, path, class_name, 1 / 8, int(selected), int(injected)))
        self.data.append((path, f"sha-{path.name}", class_name, "train", int(injected), "good", "", int(injected)))
        return path

    def test(self, name: str, label: int | str, mask: Path | str = "", class_name: str = "bolt") -> Path:
        path = draw(self.root / "images" / class_name / name, seed=len(self.data))
        self.data.append((path, f"sha-{path.name}", class_name, "test", label, "", mask, 0))
        return path

    def write(self) -> Path:
        folder = self.root / "run"
        folder.mkdir()
        (folder / "spec.yaml").write_text(
            yaml.safe_dump({"name": "line", "dataset": {"type": self.dataset}}), encoding="utf-8"
        )
        _csv(folder / "ranking.csv", RANKING, self.ranking)
        _csv(folder / "data.csv", DATA, self.data)
        return folder


def _csv(path: Path, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def whole(tmp_path: Path) -> FakeRun:
    """Five training images, one of two injected defects still selected; three masks of different sizes."""
    run = FakeRun(tmp_path)
    run.train("worst.png", selected=False, injected=True)
    kept = run.train("stays.png", selected=True, injected=True)
    for index in range(3):
        run.train(f"good-{index}.png", selected=True)
    for index in range(2):
        run.test(f"ok-{index}.png", label=0)
    # Names in an order of their own, and one that is a training image too.
    run.data.append((kept, "sha-stays.png", "bolt", "test", 1, "", draw_mask(tmp_path / "masks" / "stays.png", 4), 0))
    for side, name in ((8, "b.png"), (12, "a.png")):
        run.test(name, label=1, mask=draw_mask(tmp_path / "masks" / f"{name[0]}_mask.png", side))
    return run


def test_lists_and_links(whole: FakeRun, tmp_path: Path) -> None:
    done = meds_anomalib("export", whole.write(), "--to", tmp_path / "out")
    assert done.code == 0, done.said
    out = tmp_path / "out"
    selected, left_out = rows(out / "selected.csv"), rows(out / "left-out.csv")
    assert [Path(row["path"]).name for row in selected] == ["stays.png", "good-0.png", "good-1.png", "good-2.png"]
    assert [(row["rank"], Path(row["path"]).name, row["injected"]) for row in left_out] == [("1", "worst.png", "1")]
    links = sorted((out / "train").rglob("*.png"))
    assert [link.resolve() for link in links] == [Path(row["path"]).resolve() for row in selected]
    assert all(link.is_symlink() for link in links)
    defective, masks = sorted((out / "test/defective").rglob("*.png")), sorted((out / "masks").rglob("*.png"))
    assert [link.stem for link in defective] == [link.stem for link in masks]
    assert [link.resolve().name for link in masks] == ["stays.png", "b_mask.png", "a_mask.png"]


def test_the_numbers_are_said(whole: FakeRun, tmp_path: Path) -> None:
    said = meds_anomalib("export", whole.write(), "--to", tmp_path / "out").said
    assert "bolt: 4 of 5 training images selected, 1 left out; of 2 injected defects 1 are still among the" in said
    assert "Test images: 2 normal, 3 defective (3 with masks)." in said
    assert "1 test images are among the selected training images too." in said


def test_copies_are_files_of_their_own(whole: FakeRun, tmp_path: Path) -> None:
    assert meds_anomalib("export", whole.write(), "--to", tmp_path / "out", "--copy").code == 0
    copies = sorted((tmp_path / "out" / "train").rglob("*.png"))
    assert len(copies) == 4
    assert not any(path.is_symlink() for path in copies)
    assert copies[0].read_bytes() == Path(whole.ranking[1][1]).read_bytes()


def test_one_class_of_several(whole: FakeRun, tmp_path: Path) -> None:
    whole.train("other.png", selected=True, class_name="nut")
    run = whole.write()
    assert meds_anomalib("export", run, "--to", tmp_path / "out", "--class", "nut").code == 0
    assert [row["class"] for row in rows(tmp_path / "out" / "selected.csv")] == ["nut"]
    assert "abnormal_dir" not in (tmp_path / "out" / "folder.yaml").read_text(encoding="utf-8")
    done = meds_anomalib("export", run, "--to", tmp_path / "other", "--class", "nail")
    assert (done.code, done.said) == (2, "meds-anomalib: The run 'line' has no class 'nail'; it has: bolt, nut.")


def test_a_defect_without_a_mask_leaves_all_masks_out(whole: FakeRun, tmp_path: Path) -> None:
    whole.test("c.png", label=1)
    whole.test("unknown.png", label="")
    said = meds_anomalib("export", whole.write(), "--to", tmp_path / "out").said
    assert "1 defective images have no mask, and Folder wants all or none: masks left out." in said
    assert "1 test images have no label and are left out." in said
    assert not (tmp_path / "out" / "masks").exists()
    assert "mask_dir" not in (tmp_path / "out" / "folder.yaml").read_text(encoding="utf-8")


def test_a_mask_that_is_a_folder_of_several_counts_as_none(whole: FakeRun, tmp_path: Path) -> None:
    (tmp_path / "masks" / "000").mkdir()
    whole.test("logical.png", label=1, mask=tmp_path / "masks" / "000")
    done = meds_anomalib("export", whole.write(), "--to", tmp_path / "out")
    assert done.code == 0, done.said
    assert "1 defective images have no mask, and Folder wants all or none: masks left out." in done.said


def _nothing_selected(run: FakeRun) -> None:
    run.ranking = [(*row[:4], 0, row[5]) for row in run.ranking]


def _image_gone(run: FakeRun) -> None:
    Path(run.ranking[1][1]).unlink()


def _relative(run: FakeRun) -> None:
    run.ranking[2] = (3, "gone/x.png", *run.ranking[2][2:])
    run.data[2] = ("gone/x.png", *run.data[2][1:])


def _drawn(run: FakeRun) -> None:
    run.dataset = "synthetic"
    _image_gone(run)


def _mixed_up(run: FakeRun) -> None:
    del run.data[2]


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (_nothing_selected, "The run 'line' selected no training image, so there is nothing to export."),
        (_image_gone, "stays.png' of the run 'line' is not there."),
        (_relative, "is not there; its path is relative, so start from where `meds run` was started."),
        (_drawn, "The dataset `synthetic` draws its images in memory, and anomalib needs files"),
        (_mixed_up, "ranking.csv and data.csv of the run 'line' do not belong together"),
    ],
)
def test_what_cannot_be_exported(whole: FakeRun, tmp_path: Path, damage: Any, sentence: str) -> None:
    damage(whole)
    done = meds_anomalib("export", whole.write(), "--to", tmp_path / "out")
    assert done.code == 2
    assert sentence in done.said
    assert not (tmp_path / "out").exists()


def test_folders_that_cannot_be_used(whole: FakeRun, tmp_path: Path) -> None:
    run = whole.write()
    assert (
        "is not the directory of a meds run: it has no spec.yaml."
        in meds_anomalib("export", tmp_path, "--to", tmp_path / "out").said
    )
    assert "is not empty: choose a new folder" in meds_anomalib("export", run, "--to", run).said
    said = meds_anomalib("export", run, "--to", tmp_path / "Prüfung").said
    assert "anomalib reads no folder whose path has other than ASCII characters" in said
    (run / "ranking.csv").unlink()
    assert "has no ranking.csv: finish it with `meds run`" in meds_anomalib("export", run, "--to", tmp_path / "x").said


def test_damaged_files_are_named(whole: FakeRun, tmp_path: Path) -> None:
    run = whole.write()
    (run / "ranking.csv").write_text("rank,path\n1,x\n", encoding="utf-8")
    done = meds_anomalib("export", run, "--to", tmp_path / "out")
    assert (done.code, "ranking.csv has no column 'class'" in done.said) == (2, True)
    (run / "spec.yaml").write_text("name: [", encoding="utf-8")
    done = meds_anomalib("export", run, "--to", tmp_path / "out")
    assert (done.code, "spec.yaml is damaged" in done.said) == (2, True)


def _mask_sides(dataset: Any) -> dict[str, int]:
    """Side of the square on each defective image's mask, by the name of the image's file."""
    found = {}
    for index in range(len(dataset)):
        item = dataset[index]
        if int(item.gt_label) == 1:
            found[Path(item.image_path).resolve().name] = round(float(item.gt_mask.sum()) ** 0.5)
    return found


@needs_anomalib
def test_anomalib_s_folder_reads_the_export(whole: FakeRun, tmp_path: Path) -> None:
    from anomalib.data import AnomalibDataModule, Folder

    assert meds_anomalib("export", whole.write(), "--to", tmp_path / "out").code == 0
    data = AnomalibDataModule.from_config(tmp_path / "out" / "folder.yaml")
    assert isinstance(data, Folder)
    data.setup()
    trained_on = {Path(path).resolve().name for path in data.train_data.samples.image_path}
    assert trained_on == {"stays.png", "good-0.png", "good-1.png", "good-2.png"}
    assert (len(data.test_data), len(data.val_data)) == (5, 5)
    assert _mask_sides(data.test_data) == {"stays.png": 4, "b.png": 8, "a.png": 12}
    data.num_workers = 0
    assert next(iter(data.train_dataloader())).image.shape == (4, 3, 32, 32)


@needs_anomalib
def test_anomalib_s_command_trains_from_the_export(whole: FakeRun, tmp_path: Path) -> None:
    assert meds_anomalib("export", whole.write(), "--to", tmp_path / "out").code == 0
    model = ["--model", "Padim", "--model.backbone", "resnet18", "--model.pre_trained", "false"]
    command = [sys.executable, "-c", "from anomalib.cli.cli import main; main()", "train", *model]
    command += ["--data", str(tmp_path / "out" / "folder.yaml"), "--trainer.accelerator", "cpu"]
    command += ["--default_root_dir", str(tmp_path / "results")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "image_AUROC" in done.stdout
    assert list((tmp_path / "results").rglob("*.ckpt"))


@needs_anomalib
def test_anomalib_s_tabular_reads_the_list(whole: FakeRun, tmp_path: Path) -> None:
    from anomalib.data import Tabular

    assert meds_anomalib("export", whole.write(), "--to", tmp_path / "out").code == 0
    data = Tabular.from_file("line", tmp_path / "out" / "samples.csv", val_split_mode="same_as_test")
    data.setup()
    assert (len(data.train_data), len(data.test_data)) == (4, 5)
    assert _mask_sides(data.test_data) == {"stays.png": 4, "b.png": 8, "a.png": 12}


@needs_anomalib
def test_a_run_without_test_images_is_read_too(tmp_path: Path) -> None:
    from anomalib.data import AnomalibDataModule

    run = FakeRun(tmp_path)
    for index in range(20):
        run.train(f"{index}.png", selected=True)
    said = meds_anomalib("export", run.write(), "--to", tmp_path / "out").said
    assert "No labelled test images: anomalib keeps a tenth of the selected images for validation." in said
    data = AnomalibDataModule.from_config(tmp_path / "out" / "folder.yaml")
    data.setup()
    assert (len(data.train_data), len(data.val_data), len(data.test_data)) == (18, 2, 0)


@needs_anomalib
def test_a_run_without_normal_test_images_is_read_too(tmp_path: Path) -> None:
    from anomalib.data import AnomalibDataModule

    run = FakeRun(tmp_path)
    for index in range(10):
        run.train(f"{index}.png", selected=True)
    run.test("defect.png", label=1)
    said = meds_anomalib("export", run.write(), "--to", tmp_path / "out").said
    assert "anomalib takes a fifth of the selected training images for its test" in said
    data = AnomalibDataModule.from_config(tmp_path / "out" / "folder.yaml")
    data.setup()
    assert (len(data.train_data), len(data.test_data)) == (8, 3)


def test_the_files_of_a_real_run(tmp_path: Path) -> None:
    for index in range(8):
        draw(tmp_path / "images" / "bolt" / "train" / "good" / f"{index}.png", index)
        draw(tmp_path / "images" / "bolt" / "test" / ("good" if index % 2 else "bent") / f"{index}.png", 100 + index)
    for index in (0, 2, 4, 6):
        draw_mask(tmp_path / "images" / "bolt" / "ground_truth" / "bent" / f"{index}_mask.png", 4 + index)
    done = run_spec(
        tmp_path,
        {
            "name": "bolts",
            "device": "cpu",
            "threads": 1,
            "dataset": {"type": "mvtec", "path": str(tmp_path / "images")},
            "noise": {"ratio": 0.25},
            "backbone": {"type": "efficientnet-lite0", "pretrained": False, "image_size": 32},
            "student": {"type": "rd", "layers": ["stride4", "stride8", "stride16"], "blocks": [1, 1, 1]},
            "stages": [{"type": "memory"}, {"type": "evaluate", "map_size": 32}],
        },
    )
    assert done.code == 0, done.said
    exported = meds_anomalib("export", tmp_path / "runs" / "bolts", "--to", tmp_path / "out")
    assert exported.code == 0, exported.said
    assert "bolt: 10 of 10 training images selected, 0 left out; of 2 injected defects 2 are still" in exported.said
    assert "The run left nothing out" in exported.said
    assert "2 test images are among the selected training images too." in exported.said
    assert len(rows(tmp_path / "out" / "samples.csv")) == 10 + 8

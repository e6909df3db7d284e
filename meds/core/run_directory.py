"""The files of a run directory: what was run, and reports that are read from artifacts."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import platform
import shutil
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from meds.core import files
from meds.core.data import RunData, Sample
from meds.core.errors import UserError
from meds.core.image_files import one_line
from meds.core.in_use import is_locked
from meds.core.spec import EARLIER
from meds.core.store import Artifact
from meds.core.suspicion import most_suspicious_first
from meds.core.thresholds import lies_above

POINTER = "artifact.json"
PREDICTION_COLUMNS = ("path", "class", "label", "score", "threshold", "decision")
RANKING_COLUMNS = ("rank", "path", "class", "score", "selected", "injected")
SELECTION_COLUMNS = (
    "iteration",
    "epoch",
    "class",
    "selected",
    "total",
    "threshold",
    "alpha",
    "k",
    "scored",
    "injected_selected",
)
# What a table must have to be read; "scored" came later than the first runs, and no page needs it.
TABLES = {
    "predictions.csv": PREDICTION_COLUMNS,
    "ranking.csv": RANKING_COLUMNS,
    "selection.csv": tuple(name for name in SELECTION_COLUMNS if name != "scored"),
}
METRICS = ("classes", "mean", "noise", "ranking")
STATE = ("status", "name", "seed", "device", "precision", "stages", "versions", "home")
LOCK = ".lock"
REPORTS = ("metrics.json", "predictions.csv", "ranking.csv", "selection.csv", "ranking.html", "report.html")
_LIBRARIES = ("meds-ad", "torch", "timm", "numpy", "safetensors", "faiss-cpu")


class RunDirectory:
    """One run's folder, `runs/<name>`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def prepare(self, spec_yaml: str, data: RunData, fingerprints: Mapping[str, str]) -> bool:
        """Write the resolved spec and the list of images; `fingerprints` are those of the stages by name.

        Returns whether reports that are no longer true were there.

        Reports of another spec, of other images or of stages that made something else go into the folder `earlier`, in
        the place of those there.
        """
        for folder in (self.path, *(pointer.parent for pointer in self.path.glob(f"*/{POINTER}"))):
            files.remove_leftovers(folder)
        whole = {"spec.yaml": spec_yaml, "data.csv": data.to_csv()}
        put_away = False
        if any(not self._holds(name, text) for name, text in whole.items()) or self._made_otherwise(fingerprints):
            put_away = self._put_reports_away(list(whole))
        for name, text in whole.items():
            files.write_text(self.path / name, text)
        if data.unreadable:
            files.write_text(self.path / "unreadable.txt", "".join(f"{one_line(path)}\n" for path in data.unreadable))
        else:
            (self.path / "unreadable.txt").unlink(missing_ok=True)
        return put_away

    def _made_otherwise(self, fingerprints: Mapping[str, str]) -> bool:
        """Whether the run here had other results, as of other weights or decisions, which no spec shows."""
        try:
            rows = self.read_state()["stages"]
        except UserError:
            return False
        return any(fingerprints.get(row["name"], row["fingerprint"]) != row["fingerprint"] for row in rows)

    def _holds(self, name: str, text: str) -> bool:
        path = self.path / name
        return path.is_file() and path.read_bytes() == text.encode()

    def _put_reports_away(self, described_by: Sequence[str]) -> bool:
        # A killed process leaves this folder half full, and the next one goes on filling it.
        moving = self.path / f".{EARLIER}"
        present = [name for name in REPORTS if (self.path / name).is_file()]
        if present or moving.is_dir():
            moving.mkdir(exist_ok=True)
            for name in (*described_by, *present):
                with contextlib.suppress(FileNotFoundError):
                    (self.path / name).replace(moving / name)
            shutil.rmtree(self.path / EARLIER, ignore_errors=True)
            moving.rename(self.path / EARLIER)
        for pointer in self.path.glob(f"*/{POINTER}"):
            pointer.unlink()
            with contextlib.suppress(OSError):  # somebody keeps files of their own there
                pointer.parent.rmdir()
        return bool(present)

    def write_state(self, state: Mapping[str, Any]) -> None:
        """Write run.json."""
        files.write_json(self.path / "run.json", state)

    def read_state(self) -> dict[str, Any]:
        """run.json; UserError if this is not a run directory."""
        if not self.path.exists():
            raise UserError(f"{self.path}: there is no such file or folder.")
        if not (self.path / "run.json").is_file():
            raise UserError(f"{self.path} is not a run directory: it has no run.json.")
        return read_json(self.path / "run.json", STATE)

    def is_in_use(self) -> bool:
        """Whether a process is running it."""
        lock = self.path / LOCK
        return lock.is_file() and is_locked(lock)

    def point_to(self, stage: str, artifact: Artifact) -> None:
        """Note where a stage's artifact lives."""
        pointer = {"fingerprint": artifact.fingerprint, "path": str(artifact.path), "kind": artifact.kind}
        files.write_json(self.path / stage / POINTER, pointer)

    def write_evaluation(self, stage: str, data: RunData, evaluation: Artifact) -> dict[str, Any]:
        """Write metrics.json, predictions.csv and ranking.csv from the evaluation of a stage; returns the metrics."""
        figures = evaluation.json("metrics")
        scores = evaluation.tensors("scores")
        metrics = {
            "classes": figures["classes"],
            "mean": figures["mean"],
            "noise": data.noise,
            "ranking": figures["ranking"],
            "thresholds": figures["thresholds"],
            "calibration": figures["calibration"],
            "evaluation": figures["evaluation"],
            "stage": stage,
        }
        files.write_json(self.path / "metrics.json", metrics)
        shown, values = (data.test, scores["test"]) if data.test else (data.train, scores["train"])
        self._csv("predictions.csv", PREDICTION_COLUMNS, _predictions(shown, values.tolist(), figures["thresholds"]))
        ranking = _ranking(data.train, scores["ranking"].tolist(), evaluation.info["selected"])
        self._csv("ranking.csv", RANKING_COLUMNS, ranking)
        return metrics

    def write_selection(self, data: RunData, student: Artifact) -> None:
        """Write selection.csv from a student that selected its images."""
        if "selection.json" not in student.manifest["files"]:
            return
        rows = student.json("selection")
        histories = student.tensors("selection").values()
        injected: dict[str, list[int]] = {name: [] for name in data.class_names}
        for place, sample in enumerate(data.train):
            if sample.injected:
                injected[sample.record.class_name].append(place)
        counts = {name: [h[:, places].sum(dim=1).tolist() for h in histories] for name, places in injected.items()}
        for row in rows:
            row["injected_selected"] = sum(
                int(epochs[row["epoch"]]) for epochs in counts[row["class"]] if row["epoch"] < len(epochs)
            )
        self._csv("selection.csv", SELECTION_COLUMNS, rows)

    def _csv(self, name: str, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        files.write_text(self.path / name, text.getvalue())


def _predictions(
    samples: Sequence[Sample], scores: Sequence[float], thresholds: Mapping[str, float]
) -> list[dict[str, Any]]:
    rows = []
    for sample, score in zip(samples, scores, strict=True):
        threshold = thresholds[sample.record.class_name]
        rows.append(
            {
                "path": sample.record.path,
                "class": sample.record.class_name,
                "label": "" if sample.record.label is None else sample.record.label,
                "score": f"{score:.8g}",
                "threshold": f"{threshold:.8g}",
                "decision": "anomalous" if lies_above(score, threshold) else "normal",
            }
        )
    return rows


def _ranking(samples: Sequence[Sample], scores: Sequence[float], selected: Sequence[int]) -> list[dict[str, Any]]:
    order = most_suspicious_first(scores, [sample.record.class_name for sample in samples])
    return [
        {
            "rank": rank,
            "path": samples[i].record.path,
            "class": samples[i].record.class_name,
            "score": f"{scores[i]:.8g}",
            "selected": int(selected[i]),
            "injected": int(samples[i].injected),
        }
        for rank, i in enumerate(order, start=1)
    ]


def read_json(path: Path, needed: Sequence[str] = ()) -> dict[str, Any]:
    """A JSON file of a run directory with some entries; UserError if it is missing or damaged."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing; run the spec again.") from None
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); run the spec again.") from None
    lacking = [key for key in needed if not isinstance(content, dict) or key not in content]
    if lacking:
        raise UserError(f"{path} is damaged (it has no '{lacking[0]}'); run the spec again.")
    return content


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of a table of a run directory; none if it was not written. UserError if it is damaged."""
    if not path.is_file():
        return []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            names, rows = reader.fieldnames or (), list(reader)
    except (ValueError, csv.Error) as error:
        raise UserError(f"{path} is damaged ({error}); run the spec again.") from None
    lacking = [name for name in TABLES.get(path.name, ()) if name not in names]
    if lacking or any(None in row or None in row.values() for row in rows):
        what = f"it has no column '{lacking[0]}'" if lacking else "its rows differ in length"
        raise UserError(f"{path} is damaged ({what}); run the spec again.")
    return rows


def library_versions() -> dict[str, str]:
    """Versions of Python and of the libraries that results depend on."""
    versions = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions

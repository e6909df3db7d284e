"""Writes what `meds predict` found: two tables, line by line, and pictures."""

from __future__ import annotations

import csv
import json
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import numpy as np

from meds.core import files, heatmaps
from meds.core.predict import AnyPredictor, Scored
from meds.core.prediction_folder import COLUMNS, LINES, PICTURES, TABLE, begin, check_output, put_away, writing_into

# Bytes: file systems allow 255, with a number and the suffix.
_LONGEST_NAME = 240


class PredictionFiles:
    """Writes predictions.csv, predictions.jsonl and, with `pictures`, heatmaps and masks into a folder.

    A context: entering it puts a former call's files away (`former` says where) and raises UserError as `check_output`
    and `writing_into` do. Every line is on the disk when `write` returns.
    """

    def __init__(self, output: Path, predictor: AnyPredictor, pictures: bool = True) -> None:
        self.output = output
        self.former: Path | None = None
        self.count = self.anomalous = 0
        self._predictor, self._drawing = predictor, pictures
        self._names: set[str] = set()

    def __enter__(self) -> PredictionFiles:
        with ExitStack() as stack:
            stack.enter_context(writing_into(self.output))
            check_output(self.output, self._drawing)
            self.former = put_away(self.output)
            begin(self.output, self._drawing)
            self._csv: IO[str] = stack.enter_context((self.output / TABLE).open("w", encoding="utf-8", newline=""))
            self._lines: IO[str] = stack.enter_context((self.output / LINES).open("w", encoding="utf-8"))
            self._rows = csv.DictWriter(self._csv, COLUMNS, lineterminator="\n")
            self._rows.writeheader()
            self._open = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)

    def write(self, scored: Scored) -> dict[str, Any]:
        """One image; returns its row, as in predictions.jsonl."""
        found = scored.prediction
        row: dict[str, Any] = {
            "path": str(scored.path),
            "class": scored.class_name,
            "score": float(f"{found.score:.8g}"),
            "threshold": float(f"{found.threshold:.8g}"),
            "decision": "anomalous" if found.anomalous else "normal",
        } | dict.fromkeys(PICTURES)
        if self._drawing:
            row |= self._pictures(scored)
        self._rows.writerow({key: "" if value is None else value for key, value in row.items()})
        self._lines.write(json.dumps(row, ensure_ascii=False) + "\n")
        self._csv.flush()
        self._lines.flush()
        self.count, self.anomalous = self.count + 1, self.anomalous + found.anomalous
        return row

    def _pictures(self, scored: Scored) -> dict[str, str]:
        predictor, image, found = self._predictor, scored.image, scored.prediction
        values = heatmaps.on_image(found.map, image.shape[0], image.shape[1], predictor.preprocessing)
        shown = heatmaps.fit_to_screen(image)
        drawn = values
        if shown is not image:
            drawn = heatmaps.on_image(found.map, shown.shape[0], shown.shape[1], predictor.preprocessing)
        scale = predictor.thresholds.classes[scored.class_name].heatmap
        mask = np.nan_to_num(values, nan=-np.inf) > predictor.thresholds.pixel[scored.class_name]
        name = self._free_name(scored.path)
        places = {kind: self.output / f"{kind}s" / f"{name}.png" for kind in PICTURES}
        files.write_atomic(places["heatmap"], heatmaps.png(heatmaps.overlay(shown, drawn, scale)))
        files.write_atomic(places["mask"], heatmaps.png(mask))
        return {kind: str(place.relative_to(self.output)) for kind, place in places.items()}

    def _free_name(self, path: Path) -> str:
        """The image's name, cut where no file may have it, with a number if another image has it already."""
        stem = path.stem.encode()[:_LONGEST_NAME].decode(errors="ignore")
        name, number = stem, 1
        while name in self._names:
            number += 1
            name = f"{stem}-{number}"
        self._names.add(name)
        return name

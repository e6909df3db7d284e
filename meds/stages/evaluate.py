"""Stage evaluate: scores test and training images with the last trained scorer and measures the result."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from meds.core import metrics
from meds.core.calibration import calibrate
from meds.core.data import Sample, class_indices
from meds.core.errors import PluginError
from meds.core.images import resize_and_crop_mask
from meds.core.model import EvaluationDefaults
from meds.core.partitions import StudentScorer
from meds.core.reporter import ProgressBar
from meds.core.selection import robust_maximum
from meds.core.stage import Stage, StageContext
from meds.core.store import Artifact
from meds.core.student import Student
from meds.core.thresholds import Booleans, Floats, TrainingScores, class_thresholds
from meds.core.timing import probes, seconds_of
from meds.stages.image_scores import ImageScores
from meds.stages.odd_masks import say_odd_masks, say_unmasked, say_vanished_masks
from meds.stages.options import EvaluateOptions
from meds.stages.ranking import ranked_by, ranking_scores
from meds.stages.thresholds import last_selection, likely_normal, not_trained_on, selects
from meds.stages.training_bias import as_if_not_trained_on

MEMORY = ("memory-scores",)
TRAINED = ("student", "distilled-student")
SCORERS = (*TRAINED, *MEMORY)


class Evaluate(Stage):
    """Artifact kind "evaluation".

    `scores.safetensors`: `test` and `train` image scores float32 [n], `scorer` float32 [n] (the robust maximum of each
    training image's patch scores by the student's own maps, with the selection's percent), `ranking` float32 [n] (what
    training images are ranked by), `peaks` and `middles` float32 [n] (the largest and the median value of the training
    images' smoothed maps), `unseen` uint8 [n], 1 for those not trained on, and `normal` float64 [n] (how likely each
    training image is to be normal, 0 to 1). `maps.safetensors`: `test` and `train` patch score maps float16 [n, H, W].
    `metrics.json`: figures by class, means, ranking figures, thresholds and how far they can be trusted
    (`class_thresholds`).
    """

    produces = "evaluation"
    options: EvaluateOptions

    def consumes(self) -> tuple[tuple[str, ...], ...]:
        """The nearest earlier stage whose result can score images, and the memory if it alone is to rank."""
        return (SCORERS, MEMORY) if self.options.ranking == "memory" else (SCORERS,)

    def may_consume(self) -> tuple[str, ...]:
        """The memory, which ranks training images and tells likely defects together with the student."""
        return MEMORY

    def sees_test_images(self) -> bool:
        """Yes: this is the only stage that does."""
        return True

    def run(self, context: StageContext) -> None:
        """Score all images, measure, and choose the thresholds."""
        source = context.input(*SCORERS)
        scorer = context.scorer_of(source)
        how = self.evaluation(context)
        data, known, robust = context.data, scorer.training_scores(), _robust_maximum(source)
        train = ImageScores(context, scorer, data.train, how, self.options.batch_size, known, robust)
        test = ImageScores(context, scorer, data.test, how, self.options.batch_size)
        with (
            context.reporter.bar(context.name, len(data.train) + len(data.test)) as bar,
            torch.inference_mode(),
        ):
            train.score(range(len(data.train)), bar)
            figures = self._figures(context, test, bar)
        selected = last_selection(source, len(data.train))
        unseen = not_trained_on(source, len(data.train), known is not None)
        remembered = _remembered(context, robust)
        own = as_if_not_trained_on(train.robust, remembered, selected & ~unseen, unseen, class_indices(data.train))
        normal = likely_normal(data.train, selected, _suspicion(source, own, remembered))
        calibration = self._calibration(context, train, selected, unseen, normal)
        by = ranked_by(self.options.ranking, source.kind, remembered is not None)
        ranking = ranking_scores(by, own if by == "both" else train.robust, remembered)
        stored = {"train": train.images, "test": test.images, "scorer": train.robust, "ranking": ranking}
        stored |= {"peaks": train.peaks, "middles": train.middles}
        stored |= {"unseen": torch.from_numpy(unseen.astype(np.uint8)), "normal": torch.from_numpy(normal)}
        context.output.write_tensors("scores", stored)
        context.output.write_tensors("maps", {"train": train.patches, "test": test.patches})
        context.output.write_json(
            "metrics",
            {
                **figures,
                "ranking": {"by": by, **_ranking_figures(data.train, ranking.numpy())},
                "thresholds": {name: row["threshold"] for name, row in calibration.items()},
                "calibration": calibration,
                "evaluation": _described(how),
            },
        )
        context.output.info["selected"] = selected.astype(int).tolist()
        context.output.info["robust_maximum"] = source.info.get("robust_maximum", {})

    def estimate_seconds(self, context: StageContext) -> float | None:
        """What a timed batch takes, times the images, and the pixel figures of a few random maps, times the test maps.

        None where no student scores: a detector or the memory takes its own time.
        """
        if not issubclass(context.student_class, Student) or not context.inputs.keys() & set(TRAINED):
            return None
        how, size = self.evaluation(context), self.options.batch_size
        students = [context.new_student("estimate").eval()] * len(context.partitions)
        scorer, few = StudentScorer(context, students, "cosine", own_maps=True), probes(context, size)
        with torch.inference_mode(), context.reporter.bar("", size) as bar:
            scores = ImageScores(context, scorer, few, how, size)
            seconds = seconds_of(lambda: scores.score(range(size), bar))
        total = _starting_seconds() + seconds / size * (len(context.data.train) + len(context.data.test))
        if any(sample.record.mask for sample in context.data.test):
            maps = np.random.default_rng(0).random((size, how.map_size, how.map_size), dtype=np.float32)
            masks = np.zeros(maps.shape, dtype=bool)
            masks[:, : how.map_size // 4, : how.map_size // 4] = True
            limit, threads = self.options.aupro_limit, context.runtime.threads
            pixels = seconds_of(lambda: metrics.pixel_metrics(maps, masks, limit, threads)) / size
            total += pixels * len(context.data.test)
        return total

    def check(self, context: StageContext) -> None:
        """A checkpoint that is missing, and options without effect, are found before a student is trained."""
        self._evaluation(context)

    def evaluation(self, context: StageContext) -> EvaluationDefaults:
        """The student's evaluation with this stage's options laid over it."""
        return self._evaluation(context.without_weights())

    def _evaluation(self, context: StageContext) -> EvaluationDefaults:
        names = {field.name for field in fields(EvaluationDefaults)}
        given = {key: value for key, value in self.options if key in names and value is not None}
        model = context.within(context.partitions[0]).new_model("evaluation")
        how = replace(model.evaluation_defaults(), **given)
        for option, rule, used in (
            ("top_fraction", "`image_score: top`", how.image_score == "top"),
            ("pool_window", "`image_score: pooled-max`", how.image_score == "pooled-max"),
            ("sigma", "a `smoothing`", how.smoothing != "none"),
        ):
            if option in given and not used:
                raise PluginError(f"`{option}` of the stage `{context.name}` has no effect without {rule}.")
        if how.image_score == "own" and isinstance(model, Student):
            raise PluginError("`image_score: own` is for detectors that score whole images, and a student does not.")
        return how

    def _figures(self, context: StageContext, test: ImageScores, bar: ProgressBar) -> dict[str, Any]:
        """Score the test images and measure, class by class: only one class's anomaly maps are held at a time."""
        classes: dict[str, dict[str, float | None]] = {}
        for index, name in enumerate(context.data.class_names):
            rows = [i for i, sample in enumerate(test.samples) if sample.class_index == index]
            judged = _judged_by_pixels(test.samples, rows)
            say_unmasked(context, name, [test.samples[i] for i in rows])
            maps = test.score(rows, bar, keep=judged)
            labelled = [i for i in rows if test.samples[i].record.label is not None]
            if labelled:
                labels = np.array([test.samples[i].record.label for i in labelled])
                classes[name] = dict(metrics.image_metrics(test.images[labelled].numpy(), labels))
                classes[name] |= self._pixel_figures(context, [test.samples[i] for i in judged], maps, test.how)
        if not classes:
            context.reporter.say(
                "There are no labelled test images, so nothing is measured on them; the ranking is written."
            )
            return {"classes": {}, "mean": {}}
        nothing = dict.fromkeys(next(iter(classes.values())))
        classes = {name: classes.get(name, nothing) for name in context.data.class_names}
        return {"classes": classes, "mean": metrics.mean_metrics(classes)}

    def _pixel_figures(
        self, context: StageContext, samples: Sequence[Sample], maps: Tensor, how: EvaluationDefaults
    ) -> dict[str, float | None]:
        if not samples:
            return dict.fromkeys(("pixel_auroc", "pixel_ap", "pixel_f1max", "pixel_aupro"))
        masks = np.zeros((len(samples), how.map_size, how.map_size), dtype=bool)
        covered: dict[str, float] = {}
        vanished: list[str] = []
        for place, sample in enumerate(samples):
            mask = context.read_mask(sample) if sample.record.mask is not None else None
            if mask is not None:
                if sample.record.label == 1:
                    covered[str(sample.record.mask)] = mask.mean()
                masks[place] = resize_and_crop_mask(
                    mask, context.backbone.preprocessing, how.map_size, how.mask_rule, how.mask_resize
                )
                if mask.any() and not masks[place].any():
                    vanished.append(str(sample.record.mask))
        say_odd_masks(context, covered)
        say_vanished_masks(context, vanished, len(covered), how.mask_rule)
        return dict(metrics.pixel_metrics(maps.numpy(), masks, self.options.aupro_limit, context.runtime.threads))

    def _calibration(
        self, context: StageContext, train: ImageScores, selected: Booleans, unseen: Booleans, normal: Floats
    ) -> dict[str, dict[str, Any]]:
        scores = TrainingScores(
            train.images.numpy(), train.peaks.numpy(), train.middles.numpy(), class_indices(context.data.train)
        )
        rate = self.options.false_alarm_rate
        return {
            name: class_thresholds(scores, index, selected, unseen, normal, rate)
            for index, name in enumerate(context.data.class_names)
        }


def _robust_maximum(source: Artifact) -> Callable[[Tensor], Tensor]:
    """`robust_maximum` as the selection took it, with the defaults where nothing selects: maps [n, H, W] -> [n]."""
    return partial(robust_maximum, **source.info.get("robust_maximum", {}))


def _remembered(context: StageContext, robust: Callable[[Tensor], Tensor]) -> Tensor | None:
    """The memory's score of each training image, float32 [n]; None in a run without a memory."""
    memory = context.inputs.get("memory-scores")
    return None if memory is None else robust(memory.tensors("scores")["maps"])


def _suspicion(source: Artifact, own: Tensor, remembered: Tensor | None) -> Floats | None:
    """Scores [n] that tell likely defects from normal training images.

    None without a memory, and of a student that was trained on all images, defects among them.
    """
    if remembered is None or not (selects(source) or source.kind == "memory-scores"):
        return None
    return ranking_scores("both", own, remembered).double().numpy()


def _starting_seconds() -> float:
    """What the first threshold takes, most of it for loading the statistics library."""
    start = time.perf_counter()
    calibrate(np.arange(2.0), 0.5, held_out=True)
    return time.perf_counter() - start


def _judged_by_pixels(samples: Sequence[Sample], rows: Sequence[int]) -> list[int]:
    """Those of the rows that tell about pixels, as a defective image without a mask does not; [] without any mask."""
    known = [i for i in rows if samples[i].record.label == 0 or samples[i].record.mask is not None]
    return known if any(samples[i].record.mask for i in known) else []


def _ranking_figures(samples: Sequence[Sample], scores: np.ndarray[Any, Any]) -> dict[str, Any]:
    contaminated = np.array([sample.injected for sample in samples], dtype=bool)
    by_class = {}
    for name in sorted({sample.record.class_name for sample in samples}):
        members = np.array([sample.record.class_name == name for sample in samples])
        by_class[name] = metrics.ranking_metrics(scores[members], contaminated[members])
    return {"classes": by_class, "mean": metrics.mean_metrics(by_class)}


def _described(how: EvaluationDefaults) -> dict[str, Any]:
    return {key: getattr(how, key) for key in how.__dataclass_fields__}

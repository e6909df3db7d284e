"""The kit for detectors: methods that the stage `fit` runs in their own way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from torch import Tensor

from meds.core.detector import Detector, TrainingFeatures
from meds.core.errors import PluginError
from meds.core.model import Scores
from meds.core.store import tensor_bytes
from meds.testing.base import check, require
from meds.testing.bits import difference, same_bits
from meds.testing.models import ModelKit, check_close, check_scores, shown
from meds.testing.surroundings import temporary_folder
from meds.testing.tiny_run import DATASET, EVALUATE, TinyRun, check_repetition

CPU = torch.device("cpu")


class Fitted:
    """A detector that a run has fitted on one encoder, and the features of the run's test images."""

    def __init__(self, who: str, run: TinyRun) -> None:
        self.who, self.run = who, run
        self.context = run.context("fit")
        self.training_images = len(self.context.data.train)
        samples = self.context.data.test
        self.features = [feature.clone() for feature in self.context.read_features(samples)]
        self.classes = self.context.class_tensor(samples)

    def in_memory(self) -> Any:
        """A detector that is fitted as the stage `fit` does it, and that has never been stored."""
        partition = self.context.partitions[0]
        own, train = self.context.within(partition), self.context.data.train
        model: Any = own.new_model(partition.name)
        training = TrainingFeatures(own, [train[i] for i in partition.positions(train)], partition.name)
        torch.manual_seed(training.seed)
        model.fit(training)
        return model

    def detector(self) -> Any:
        """A detector with the stored state."""
        model: Any = self.context.new_model("all")
        model.load_state(self.run.artifact("fit").tensors("student"), CPU)
        return model


class DetectorKit(ModelKit):
    """Every check of the contract `Detector`."""

    contract = Detector

    def fit_block(self) -> dict[str, Any]:
        """The stage `fit`: a detector has options of its own for its length."""
        return {"type": "fit"}

    @contextmanager
    def _run(self, block: Mapping[str, Any], **changes: Any) -> Iterator[TinyRun]:
        with temporary_folder() as folder:
            spec = {"student": self.block(), "backbone": block, **changes}
            yield TinyRun(self.registry(), folder, [self.fit_block(), EVALUATE], **spec)

    def fitted(self, **changes: Any) -> Iterator[Fitted]:
        """The detector, fitted through meds' own runner on each encoder."""
        for family, block in self.encoder_blocks().items():
            with self._run(block, **changes) as run:
                run.run(last="fit")
                yield Fitted(f"{self.title}, fitted on a {family},", run)

    @check
    def test_fit_and_scores(self) -> None:
        """A fitted detector gives scores of new images: float32 [B, H, W] for each group, finite, not negative."""
        for case in self.fitted():
            detector, kept = case.detector(), [feature.clone() for feature in case.features]
            with torch.inference_mode():
                scores = check_scores(case.who, detector.score(case.features, case.classes), len(case.classes))
            unchanged = all(same_bits(a, b) for a, b in zip(kept, case.features, strict=True))
            require(unchanged, f"{case.who} changes the features that it scores in place.")
            nothing = [torch.zeros_like(feature) for feature in case.features]
            check_scores(f"{case.who} on empty maps,", _scores(detector, nothing, case.classes), len(case.classes))
            self.check_evaluation(case.who, detector.evaluation_defaults(), own=scores.images is not None)

    @check
    def test_a_whole_run(self) -> None:
        """Fit and evaluation end in finite figures."""
        self.check_run([self.fit_block(), EVALUATE])

    @check
    def test_interrupted_fit_ends_in_the_same_bits(self) -> None:
        """A fit that is run again, or stopped three times and started again, ends in the same bits."""
        for family, block in self.encoder_blocks().items():
            with self._run(block) as run:
                check_repetition(run, "fit", f"{self.title}, fitted on a {family},")

    @check
    def test_state_survives_safetensors(self) -> None:
        """A detector that takes over a stored state has that state, and the scores of the fitted one to the bit."""
        for case in self.fitted():
            first = case.in_memory()
            state = first.state()
            for name, value in state.items():
                good = isinstance(name, str) and isinstance(value, Tensor)
                require(good, f"{case.who} must give its state as named tensors, and '{name}' is {shown(value)}.")
            # A tensor that the detector goes on to write into would change with it.
            state = {name: value.clone() for name, value in state.items()}
            wanted = _scores(first, case.features, case.classes)
            second: Any = case.context.new_model("another")
            torch.rand(3)
            second.load_state(_stored(state), CPU)
            found = difference(state, second.state())
            require(not found, f"{case.who} has another state after it was written and read again: {found}.")
            again = _named(_scores(second, case.features, case.classes))
            found = difference(_named(wanted), again)
            require(
                not found,
                f"{case.who} gives other scores after its state was written and read again: {found}; put everything "
                "that `score` needs into `state`, take it over in `load_state` (if only last digits differ, `state` "
                "lays tensors out otherwise than `fit` leaves them: make them contiguous in `fit`).",
            )
            found = difference(state, first.state())
            require(not found, f"{case.who} changes its state when it scores: {found}.")

    @check
    def test_training_scores(self) -> None:
        """What it says of its own training images has a row for each, in the shapes of all its scores."""
        for case in self.fitted():
            detector = case.detector()
            known = detector.training_scores()
            if known is None:
                continue
            who = f"{case.who} asked for the scores of its {case.training_images} training images,"
            check_scores(who, known, case.training_images)
            scores = _scores(detector, case.features, case.classes)
            equal = [m.shape[1:] for m in known.maps] == [m.shape[1:] for m in scores.maps]
            require(equal, f"{who} gives maps of other sizes than for new images.")
            both = (known.images is None) == (scores.images is None)
            require(both, f"{who} must give image scores exactly if it gives them for new images.")

    @check
    def test_scores_do_not_depend_on_the_batch(self) -> None:
        """An image has the same scores alone and among others."""
        for case in self.fitted():
            detector = case.detector()
            together = _scores(detector, case.features, case.classes)
            for row in range(len(case.classes)):
                alone = _scores(detector, [f[row : row + 1] for f in case.features], case.classes[row : row + 1])
                what = "scores an image otherwise alone than among others"
                for whole, single in zip(together.maps, alone.maps, strict=True):
                    check_close(case.who, whole[row], single[0], what)
                if together.images is not None and alone.images is not None:
                    check_close(case.who, together.images[row], alone.images[0], what)

    @check
    def test_bf16(self) -> None:
        """A run in bf16 ends in finite scores."""
        for case in self.fitted(precision="bf16"):
            scores = _scores(case.detector(), case.features, case.classes)
            check_scores(f"{case.who} in bf16,", scores, len(case.classes))

    @check
    def test_odd_image_sizes(self) -> None:
        """Maps with odd sides are fitted and scored, unless a PluginError refuses them before anything is computed."""
        for odd in self.odd_cases():
            with self._run(odd.block) as run:
                run.run(last="fit")
                case = Fitted(odd.who, run)
                scores = _scores(case.detector(), case.features, case.classes)
                check_scores(odd.who, scores, len(case.classes))

    @check
    def test_batch_of_one(self) -> None:
        """One image alone is scored."""
        for case in self.fitted():
            alone = [feature[:1] for feature in case.features]
            check_scores(f"{case.who} on one image,", _scores(case.detector(), alone, case.classes[:1]), 1)

    @check
    def test_two_training_images(self) -> None:
        """Two images of a class, the fewest that meds allows, are fitted, unless a PluginError says why they cannot."""
        few = {**DATASET, "classes": ["weave"], "train": 2}
        try:
            for case in self.fitted(dataset=few, noise=None):
                scores = _scores(case.detector(), case.features, case.classes)
                check_scores(f"{case.who} with two training images,", scores, len(case.classes))
        except PluginError as error:
            require(bool(str(error).strip()), f"{self.title} refuses two training images without saying why.")


def _scores(detector: Any, features: Sequence[Tensor], classes: Tensor) -> Scores:
    with torch.inference_mode():
        scores: Scores = detector.score([feature.clone() for feature in features], classes)
    return scores


def _stored(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state that was written and read again, each tensor in the layout that it had in memory.

    A file has rows only, and a product of a matrix that lies in columns, as torch.linalg.inv gives it, has other last
    digits than that of the same matrix in rows: nothing is lost with it.
    """
    read = load_tensors(tensor_bytes(state))
    return {name: torch.empty_like(state[name]).copy_(value) for name, value in read.items()}


def _named(scores: Scores) -> dict[str, Tensor]:
    named = {f"map {index}": found for index, found in enumerate(scores.maps)}
    return named if scores.images is None else {**named, "image scores": scores.images}

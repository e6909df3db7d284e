"""The student `anomalib`: one of anomalib's models, fitted by anomalib on the images of a meds run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from meds.api import (
    Backbone,
    Detector,
    EvaluationDefaults,
    PluginError,
    Scores,
    TrainingFeatures,
    derive_seed,
    load_checked,
)
from meds_anomalib import AnomalibOptions
from meds_anomalib.library import AnomalibModel
from meds_anomalib.models import MODELS
from meds_anomalib.pixels import LAYER, LEVELS

NETWORK, MAPS, SCORES = "network.", "training.maps", "training.scores"


class AnomalibDetector(Detector):
    """Maps and image scores of an anomalib model before anomalib's own normalisation, both not negative.

    Everything is computed in single precision, whatever the run's precision is.
    """

    options: AnomalibOptions

    def __init__(self, options: Any, layers: Sequence[Any], class_names: Sequence[str]) -> None:
        super().__init__(options, layers, class_names)
        self._size = self.layers[0].height
        self._model: AnomalibModel | None = None
        self._known: dict[str, Tensor] = {}

    @classmethod
    def layers_needed(cls, options: Any, backbone: Backbone) -> tuple[str, ...]:  # noqa: ARG003
        """The backbone's only layer; PluginError for a backbone other than `pixels`."""
        if backbone.name != "pixels":
            raise PluginError(
                f"The student `anomalib` reads images, and the backbone '{backbone.name}' gives features: set "
                "`backbone: {type: pixels}`, and choose the model's encoder in `student.init_args`."
            )
        return (LAYER,)

    def evaluation_defaults(self) -> EvaluationDefaults:
        """The model's own image score, and its maps as they are: anomalib's models smooth them themselves."""
        return EvaluationDefaults(map_size=self._size, smoothing="none", image_score="own")

    def fit(self, training: TrainingFeatures) -> None:
        """Fit on all training images, after one model for each fold where training images are scored by others."""
        everything = list(range(len(training)))
        folds = min(self.options.fold_count(), len(training.contents.unique()))
        if folds > 1:
            self._known = self._scored_by_others(training, folds)
            torch.manual_seed(training.seed)
        self._model = self._fitted(training, everything, self.options.model)

    def _scored_by_others(self, training: TrainingFeatures, folds: int) -> dict[str, Tensor]:
        # By content: a model that was fitted on a copy has seen the image.
        order = torch.randperm(len(training.contents.unique()))
        maps: list[Tensor] = [torch.empty(0)] * len(training)
        scores = torch.zeros(len(training))
        for fold in range(folds):
            out = torch.isin(training.contents, order[fold::folds])
            held_out, kept = out.nonzero()[:, 0].tolist(), (~out).nonzero()[:, 0].tolist()
            torch.manual_seed(derive_seed(training.seed, "fold", fold))
            model = self._fitted(training, kept, f"{self.options.model}, fold {fold + 1} of {folds}")
            for position in held_out:
                found = self._shifted(model.scores(training.read([position])[0] / LEVELS))
                assert found.images is not None
                maps[position], scores[position] = found.maps[0][0].cpu(), found.images[0].cpu()
        return {MAPS: torch.stack(maps), SCORES: scores}

    def _fitted(self, training: TrainingFeatures, positions: Sequence[int], title: str) -> AnomalibModel:
        model = AnomalibModel(self.options, self._size)
        with training.bar(title, model.fit_steps(len(positions))) as bar:
            model.fit(_Images(training, positions), training.device, bar)
        return model

    def score(self, features: Sequence[Tensor], classes: Tensor) -> Scores:  # noqa: ARG002
        """Map [B, S, S] and image score [B] of images [B, 3, S, S]."""
        assert self._model is not None, "not fitted"
        return self._shifted(self._model.scores(features[0] / LEVELS))

    def _shifted(self, scores: Scores) -> Scores:
        """Values from 0 up: a model's maps may have another smallest value."""
        lowest = MODELS[self.options.model].lowest
        assert scores.images is not None
        return Scores([(m - lowest).clamp_min(0) for m in scores.maps], (scores.images - lowest).clamp_min(0))

    def training_scores(self) -> Scores | None:
        """What models that never saw an image say of it; None where training images are scored like any other."""
        return Scores([self._known[MAPS]], self._known[SCORES]) if self._known else None

    def state(self) -> dict[str, Tensor]:
        """The network with its encoder and memory, and the training images' scores by others, on the CPU."""
        assert self._model is not None, "not fitted"
        network = self._model.network.state_dict()
        # Cloned, because tensors that share memory cannot be written.
        return {
            NETWORK + name: value.detach().cpu().clone().contiguous() for name, value in network.items()
        } | self._known

    def load_state(self, state: Mapping[str, Tensor], device: torch.device) -> None:
        """Take over a state of `state`; PluginError if it is of another model."""
        model = AnomalibModel(self.options, self._size, with_weights=False)
        network = {name.removeprefix(NETWORK): value for name, value in state.items() if name.startswith(NETWORK)}
        make_room(model.network, network)
        load_checked(model.network, network, f"The stored state of anomalib's {self.options.model}")
        model.place(device)
        self._model = model
        self._known = {name: state[name] for name in (MAPS, SCORES) if name in state}


class _Images(Dataset[Tensor]):
    """Some of the training images as anomalib reads them: [3, S, S] from 0 to 1, on the device."""

    def __init__(self, training: TrainingFeatures, positions: Sequence[int]) -> None:
        self._training, self._positions = training, positions

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, index: int) -> Tensor:
        return self._training.read([self._positions[index]])[0][0] / LEVELS


def make_room(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give the network's buffers the shapes of `state`: how large a memory is, only the fit knew."""
    for name, buffer in list(network.named_buffers()):
        if name in state and state[name].shape != buffer.shape:
            owner, _, leaf = name.rpartition(".")
            network.get_submodule(owner).register_buffer(leaf, torch.empty_like(state[name]))

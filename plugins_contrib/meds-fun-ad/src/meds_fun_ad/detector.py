"""FUN-AD (Im et al., WACV 2025) as a detector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from meds.api import Backbone, DataError, Detector, EvaluationDefaults, Scores, TrainingFeatures

from . import FunADOptions
from .features import FeatureReader, layers_of
from .network import LocalNetwork
from .training import Trainer


class FunAD(Detector):
    """A discriminator of patches, trained on labels from a memory of those images that it finds normal itself."""

    options: FunADOptions
    network: LocalNetwork

    @classmethod
    def layers_needed(cls, options: Any, backbone: Backbone) -> tuple[str, ...]:
        """The layers of the option, or the published ones; the class token's last."""
        return layers_of(options, backbone)

    def evaluation_defaults(self) -> EvaluationDefaults:
        """As published: maps of 224², a Gaussian of sigma 4, the largest patch score as the image's."""
        return EvaluationDefaults(
            map_size=224, align_corners=False, sigma=4.0, image_score="patch-max", mask_rule="any"
        )

    def fit(self, training: TrainingFeatures) -> None:
        """Read all features, then train a new network.

        Raises:
            DataError: there is only one training image.
        """
        if len(training) < 2:
            raise DataError("The detector 'fun-ad' needs at least two training images, and there is one.")
        data = self._reader.read_all(training)
        self.network = LocalNetwork(self._reader.width, self.options.hidden).to(training.device)
        Trainer(self.network, data, training, self.options).train()

    def score(self, features: Sequence[Tensor], classes: Tensor) -> Scores:  # noqa: ARG002
        """Anomaly scores of patches, 0 to 1; the classes do not matter."""
        with torch.no_grad():
            logits = self.network.logits(self.network.adapt(self._reader.read(features)))
        return Scores([logits.sigmoid().view(-1, *self._reader.grid)])

    def state(self) -> dict[str, Tensor]:
        """The network's parameters, and `mean` and `std` [C] of the patches if they are standardised."""
        state = {f"network.{name}": value.detach() for name, value in self.network.state_dict().items()}
        if self._reader.mean is not None and self._reader.std is not None:
            state |= {"mean": self._reader.mean, "std": self._reader.std}
        return state

    def load_state(self, state: Mapping[str, Tensor], device: torch.device) -> None:
        """Take over what `state` gave."""
        reader, prefix = self._reader, "network."
        if "mean" in state:
            reader.mean, reader.std = state["mean"].to(device), state["std"].to(device)
        self.network = LocalNetwork(reader.width, self.options.hidden).to(device)
        self.network.load_state_dict(
            {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        )

    @cached_property
    def _reader(self) -> FeatureReader:
        return FeatureReader(self.options, self.layers)

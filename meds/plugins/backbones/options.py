"""What the options of the backbones share: the input's size, and random weights for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from meds.core.registry import Options

RANDOM_SEED = 0


class EncoderOptions(Options):
    """The encoder's input, cut out of the resized image, and whether its weights are random."""

    image_size: int | None = Field(
        default=None, ge=8, description="Side of the square input in pixels; default: the model's own."
    )
    resize: int | None = Field(
        default=None,
        ge=8,
        description="Side to which images are resized before the central `image_size` is cut; default: no cut.",
    )

    weights: Path | None = Field(default=None, description="A local torch or safetensors file.")
    pretrained: bool = Field(default=True, description="False gives random weights, for tests.")
    seed: int = Field(default=RANDOM_SEED, description="Seed of the random weights.")

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.resize is not None and self.image_size is not None and self.resize < self.image_size:
            raise ValueError(f"resize ({self.resize}) must not be smaller than image_size ({self.image_size})")
        if self.weights is not None and not self.pretrained:
            raise ValueError("weights has no place beside pretrained: false, which takes random ones: leave one out")
        if self.pretrained and self.seed != RANDOM_SEED:
            raise ValueError("seed has no effect on pretrained weights: set pretrained: false, or leave seed out")
        return self

"""What the options of the backbones share: a resize that must leave room for the central cut."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from meds.core.registry import Options


class CutOptions(Options):
    """Side of the encoder's input, and the side that images are resized to before it is cut out."""

    image_size: int | None = Field(
        default=None, ge=8, description="Side of the square input in pixels; default: the model's own."
    )
    resize: int | None = Field(
        default=None,
        ge=8,
        description="Side to which images are resized before the central `image_size` is cut; default: no cut.",
    )

    @model_validator(mode="after")
    def _cut_fits(self) -> Self:
        if self.resize is not None and self.image_size is not None and self.resize < self.image_size:
            raise ValueError(f"resize ({self.resize}) must not be smaller than image_size ({self.image_size})")
        return self

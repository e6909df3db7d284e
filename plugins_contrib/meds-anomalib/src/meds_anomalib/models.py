"""Which of anomalib's models a meds run can use, and why others cannot; imports nothing of anomalib."""

from __future__ import annotations

import difflib
from dataclasses import dataclass


@dataclass(frozen=True)
class ModelFacts:
    """What has to be known of a model before it is made.

    `trained`: it is trained for as many epochs or steps as somebody chooses, and names no number itself.
    `keeps_patches`: its memory holds patches of the training images, so that each of them would find itself.
    `lowest`: the smallest value that its maps can take.
    """

    trained: bool = False
    keeps_patches: bool = False
    lowest: float = 0.0


MODELS: dict[str, ModelFacts] = {
    "AnomalyDINO": ModelFacts(keeps_patches=True),
    "Cflow": ModelFacts(trained=True),
    "Dinomaly": ModelFacts(trained=True),
    "Fastflow": ModelFacts(trained=True, lowest=-1.0),
    "InpFormer": ModelFacts(trained=True),
    "Padim": ModelFacts(),
    "Patchcore": ModelFacts(keeps_patches=True),
    "ReverseDistillation": ModelFacts(trained=True),
    "Stfpm": ModelFacts(trained=True),
}

_TORCHVISION = "it fetches its encoder's weights from the network, through torchvision"
_TEXTURES = "it fetches a data set of textures from the network while it trains"
_LANGUAGE = "it needs a language model's weights, which it fetches from the network"
_IMAGE_ONLY = "it scores whole images and gives no anomaly maps"
_VIDEO = "it reads videos"

REFUSED: dict[str, str] = {
    "AiVad": _VIDEO,
    "AnomalyVFM": "it fetches its weights from the network",
    "CFM": "it needs depth images",
    "Cfa": _TORCHVISION,
    "Csflow": _TORCHVISION,
    "Dfkde": _IMAGE_ONLY,
    "Draem": _TEXTURES,
    "Dsr": "it fetches its weights from the network",
    "EfficientAd": "it fetches its teacher's weights and a data set from the network while it trains",
    "Fuvas": _VIDEO,
    "Ganomaly": _IMAGE_ONLY,
    "Glass": _TEXTURES,
    "UniNet": _TORCHVISION,
    "VlmAd": _LANGUAGE,
    "WinClip": _LANGUAGE,
}


def suggestion(name: str) -> str:
    """A sentence for a name that no model has which is known to work, with the nearest one."""
    near = difflib.get_close_matches(name, [*MODELS, *REFUSED], n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(sorted(MODELS))}."
    return f"'{name}' is no anomalib model that is known to work in a meds run; {hint}"

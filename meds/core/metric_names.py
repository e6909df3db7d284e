"""The names of the metrics as people read them, and which classes have none."""

from __future__ import annotations

from collections.abc import Mapping

METRIC_NAMES = {
    "image_auroc": "image AUROC",
    "image_ap": "image AP",
    "image_f1max": "image F1-max",
    "pixel_auroc": "pixel AUROC",
    "pixel_ap": "pixel AP",
    "pixel_f1max": "pixel F1-max",
    "pixel_aupro": "pixel AUPRO",
}
# Why a mean is without a class.
NO_TEST = "not both normal and defective images to test on"
NO_PIXELS = "no pixels of defects"


def without_figure(per_class: Mapping[str, Mapping[str, float | None]], name: str = "image_auroc") -> list[str]:
    """Classes that lack a figure which others have, so that a mean over classes is a mean of fewer."""
    lacking = [label for label, figures in per_class.items() if figures.get(name) is None]
    return lacking if len(lacking) < len(per_class) else []


def without_pixel_figures(per_class: Mapping[str, Mapping[str, float | None]]) -> list[str]:
    """Classes that lack pixel figures which others have, and not those of images, in the order of their names."""
    return sorted(set(without_figure(per_class, "pixel_auroc")) - set(without_figure(per_class)))

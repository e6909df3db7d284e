"""Picks the layers of a CNN by their strides, for students that name no layers."""

from __future__ import annotations

from collections.abc import Sequence

from meds.core.backbone import Backbone
from meds.core.errors import PluginError


def layers_at_strides(student: str, strides: Sequence[int], backbone: Backbone) -> list[str]:
    """For each stride the name of the backbone's last layer there; PluginError if there is none."""
    size = backbone.preprocessing.size
    names = []
    for stride in strides:
        sides = (size // stride, -(-size // stride))
        found = [layer.name for layer in backbone.layers if layer.height in sides and layer.width in sides]
        if not found:
            wanted = ", ".join(map(str, strides[:-1])) + f" and {strides[-1]}"
            raise PluginError(
                f"The student '{student}' needs layers at strides {wanted}, but the backbone '{backbone.name}' "
                f"has none at stride {stride}: name layers in the student's option 'layers' or choose another backbone."
            )
        # Where a backbone gives several maps of one grid, the last is its stage's output.
        names.append(found[-1])
    return names

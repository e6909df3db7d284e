"""Finds the layers that a student reads: those that its options name, or those of a CNN at given strides."""

from __future__ import annotations

from collections.abc import Sequence

from meds.core.backbone import Backbone, Layer
from meds.core.errors import PluginError
from meds.core.registry import unknown_name


def named_layers(student: str, names: Sequence[str], backbone: Backbone, derived: bool = True) -> list[Layer]:
    """The layers that a student's option `layers` names, `derived` ones ("stride4@14") only where they are wanted.

    Raises:
        PluginError: there is no such layer; with the nearest known name.
    """
    own = {layer.name: layer for layer in backbone.layers}
    found = []
    for name in names:
        try:
            found.append(backbone.layer(name) if derived else own[name])
        except (KeyError, PluginError):
            unknown = unknown_name(f"layer of the backbone '{backbone.name}'", name, own)
            raise PluginError(f"The option 'layers' of the student '{student}' names an {unknown}") from None
    return found


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

"""What artifacts of the kinds that stages read from each other must hold, whichever package's stage made them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from safetensors import safe_open

from meds.core.errors import PluginError
from meds.core.partitions import student_file
from meds.core.scoring import Distance
from meds.core.stage import StageContext
from meds.core.store import ArtifactWriter

MEMORY_SCORES, DISTILLED_STUDENT = "memory-scores", "distilled-student"


def check_output(kind: str, context: StageContext, output: ArtifactWriter) -> None:
    """Refuse an output that lacks what the next stages take from its kind.

    "memory-scores": `scores.safetensors` with `maps` float32 [n, H, W], the patch scores of all training images in the
    order of the data. "distilled-student": the state dict of each partition's student, `student.safetensors`, or
    `student.000.safetensors` and so on where classes have one each. Both: the fact `distance` in `info`. Of other kinds
    nothing is asked.

    Raises:
        PluginError: something is missing or has another shape.
    """
    if kind == MEMORY_SCORES:
        shape = _shapes(output, "scores").get("maps", [])
        if len(shape) != 3 or shape[0] != len(context.data.train):
            wanted = f"tensor `maps` [{len(context.data.train)}, H, W], a map for each training image"
            raise _lacks(context, kind, f"no file `scores` with a {wanted}")
    elif kind == DISTILLED_STUDENT:
        for partition in context.partitions:
            if not _shapes(output, student_file(partition)):
                raise _lacks(context, kind, f"no file `{student_file(partition)}` with the weights of its student")
    else:
        return
    distances = get_args(Distance)
    if output.info.get("distance") not in distances:
        raise _lacks(context, kind, f"no `distance` in `context.output.info`, which is {' or '.join(distances)}")


def _shapes(output: ArtifactWriter, name: str) -> Mapping[str, list[int]]:
    """Shapes of the tensors in a file of the output, nothing if there is no such file."""
    path = output.folder / f"{name}.safetensors"
    if not path.is_file():
        return {}
    with safe_open(path, "pt") as file:
        opened: Any = file
        return {key: list(opened.get_slice(key).get_shape()) for key in opened.keys()}  # noqa: SIM118


def _lacks(context: StageContext, kind: str, what: str) -> PluginError:
    return PluginError(f"The stage `{context.name}` produces '{kind}', and its result has {what}.")

"""Writes and reads the file formats of an exported detector: ONNX, OpenVINO and torch."""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from meds.core import files
from meds.core.errors import ArtifactError, UserError, first_line
from meds.export.checksum import add_checksum, checksum_holds
from meds.export.metadata import KEY
from meds.export.network import DetectorNetwork, example_image

Format = Literal["onnx", "openvino", "torch"]
SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2"}
NEEDS: dict[str, tuple[str, ...]] = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("onnx", "onnxscript", "openvino"),
    "torch": (),
}
Outputs = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]
Session = Callable[[npt.NDArray[np.uint8]], Outputs]
"""Image uint8 [1, H, W, 3] -> score [1] and map [1, S, S]."""


def need(kind: Format) -> None:
    """UserError if a package that a format needs is not installed."""
    for name in NEEDS[kind]:
        try:
            import_module(name)
        except ImportError:
            raise UserError(f"The format {kind} needs the package {name}: pip install 'meds-ad[export]'.") from None


@contextmanager
def written(network: DetectorNetwork, kind: Format, path: Path, text: str) -> Iterator[Path]:
    """Write a network with its description into a folder beside `path`, for a block that checks it.

    The file takes the place of `path` when the block ends without an error, and is removed otherwise. (Of the two
    files of OpenVINO a process that is killed between them leaves the new weights beside the old network, which the
    checksum tells.)

    Raises:
        UserError: a package is missing, or the network cannot be traced.
        ResourceError: the disk is full.
    """
    need(kind)
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.full_disk_is_a_user_error(path), TemporaryDirectory(prefix=".meds-export-", dir=path.parent) as folder:
        part = Path(folder) / path.name
        try:
            with warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("ignore")
                _WRITERS[kind](network, part, text)
                add_checksum(part)
        except OSError:
            raise
        except Exception as error:
            reason = next((line for line in str(error).splitlines() if "data-dependent" in line), None)
            told = f"The student '{network.student_name}' cannot be written as {kind}: {reason or first_line(error)}"
            raise UserError(told) from error
        yield part
        for suffix in ([".bin"] if kind == "openvino" else []) + [path.suffix]:
            files.replace(part.with_suffix(suffix), path.with_suffix(suffix))


def _traced(network: DetectorNetwork) -> Any:
    height, width = torch.export.Dim("height", min=2), torch.export.Dim("width", min=2)
    image = example_image(network.input_size)
    return torch.export.export(network, (image,), dynamic_shapes={"image": {1: height, 2: width}}, strict=False)


def _write_torch(network: DetectorNetwork, path: Path, text: str) -> None:
    # Torch's own writer ends the process where a disk is full.
    content = io.BytesIO()
    torch.export.save(_traced(network), content, extra_files={KEY: text})
    path.write_bytes(content.getbuffer())


def _write_onnx(network: DetectorNetwork, path: Path, text: str) -> None:
    program: Any = torch.onnx.export(
        _traced(network), dynamo=True, input_names=["image"], output_names=["score", "map"], verbose=False
    )
    program.model.metadata_props[KEY] = text
    program.save(path, external_data=False)


def _write_openvino(network: DetectorNetwork, path: Path, text: str) -> None:
    import openvino

    middle = path.with_suffix(".onnx")
    try:
        _write_onnx(network, middle, text)
        model = openvino.convert_model(middle)
    finally:
        middle.unlink(missing_ok=True)
    model.set_rt_info(text, [KEY])
    openvino.save_model(model, path, compress_to_fp16=False)


_WRITERS: dict[str, Callable[[DetectorNetwork, Path, str], None]] = {
    "onnx": _write_onnx,
    "openvino": _write_openvino,
    "torch": _write_torch,
}


def read(path: Path) -> tuple[str | None, Session]:
    """An exported file's description and a function that runs it; UserError if the file is of no known kind."""
    kinds = {suffix: kind for kind, suffix in SUFFIXES.items()}
    if path.suffix not in kinds:
        raise UserError(f"{path} is neither a run directory nor an exported detector ({', '.join(kinds)}).")
    kind = kinds[path.suffix]
    need(kind)
    try:
        if not checksum_holds(path):
            raise ArtifactError("it is damaged, or was not written by this version of meds; export it again.")
        return _READERS[kind](path)
    except Exception as error:
        raise UserError(f"{path} cannot be read: {first_line(error)}") from error


def _read_torch(path: Path) -> tuple[str | None, Session]:
    # Torch does not hold what it reads against the checksums that the file carries.
    with zipfile.ZipFile(path) as parts:
        damaged = parts.testzip()
    if damaged is not None:
        raise ArtifactError(f"{damaged} in it is damaged; export it again.")
    extra = {KEY: ""}
    module = torch.export.load(path, extra_files=extra).module()

    def run(image: npt.NDArray[np.uint8]) -> Outputs:
        with torch.inference_mode():
            score, values = module(torch.from_numpy(image))
        return score.numpy(), values.numpy()

    return extra[KEY], run


def _read_onnx(path: Path) -> tuple[str | None, Session]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=onnxruntime.get_available_providers())

    def run(image: npt.NDArray[np.uint8]) -> Outputs:
        score, values = session.run(["score", "map"], {"image": image})
        return np.asarray(score), np.asarray(values)

    return session.get_modelmeta().custom_metadata_map.get(KEY), run


def _read_openvino(path: Path) -> tuple[str | None, Session]:
    import openvino

    core = openvino.Core()
    model = core.read_model(path)
    # A processor may be tempted to compute in bf16, which moves scores by a percent.
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(image: npt.NDArray[np.uint8]) -> Outputs:
        found = compiled(image)
        return np.asarray(found["score"]), np.asarray(found["map"])

    return model.get_rt_info([KEY]).astype(str) if model.has_rt_info([KEY]) else None, run


_READERS: dict[str, Callable[[Path], tuple[str | None, Session]]] = {
    "onnx": _read_onnx,
    "openvino": _read_openvino,
    "torch": _read_torch,
}

"""The checksum at the end of an exported ONNX or OpenVINO file, where both formats take more without harm."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path


def _onnx(digest: str) -> bytes:
    """One more entry of the list of properties: whatever follows a serialised message is merged into it."""
    import onnx

    entry = onnx.StringStringEntryProto(key="meds.sha256", value=digest)
    return bytes(onnx.ModelProto(metadata_props=[entry]).SerializeToString())


def _openvino(digest: str) -> bytes:
    return f"\n<!-- meds sha256 {digest} -->\n".encode()


_ENDS: dict[str, Callable[[str], bytes]] = {".onnx": _onnx, ".xml": _openvino}


def add_checksum(path: Path) -> None:
    """Append the checksum of a file's content, and of OpenVINO's weights beside it; .pt2 files have their own."""
    if path.suffix in _ENDS:
        content = path.read_bytes()
        path.write_bytes(content + _ENDS[path.suffix](_digest(content, path)))


def checksum_holds(path: Path) -> bool:
    """Whether the file ends in the checksum of everything before it; True for a format that has its own."""
    if path.suffix not in _ENDS:
        return True
    end, content = _ENDS[path.suffix], path.read_bytes()
    cut = len(content) - len(end("0" * 64))
    return cut >= 0 and content[cut:] == end(_digest(content[:cut], path))


def _digest(content: bytes, path: Path) -> str:
    found = hashlib.sha256(content)
    if path.suffix == ".xml":
        found.update(path.with_suffix(".bin").read_bytes())
    return found.hexdigest()

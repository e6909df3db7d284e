"""Writes files that are either whole or absent, and that carry their own checksum."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from meds.core.errors import ArtifactError, ResourceError

_CHECKSUM_LENGTH = 16
_FULL_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def sha256(data: bytes) -> str:
    """sha256 of bytes, as hex."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """sha256 of a file's bytes, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(value: Any) -> str:
    """sha256 of plain data in canonical JSON, as hex."""
    return sha256(json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode())


@contextmanager
def full_disk_is_a_user_error(path: Path) -> Iterator[None]:
    """Turn 'no space left' into a sentence that names the place."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL_DISK:
            raise ResourceError(
                f"The disk that holds {path} is full; free some space and run the same command again: "
                "everything finished so far is kept."
            ) from error
        raise


def digest_of(path: Path) -> str | None:
    """sha256 (hex) of a file, or over the names and contents of all files in a folder; None where nothing is."""
    if path.is_dir():
        inside = sorted(inner for inner in path.rglob("*") if inner.is_file())
        return fingerprint([[inner.relative_to(path).as_posix(), sha256_file(inner)] for inner in inside])
    return sha256_file(path) if path.is_file() else None


def write_atomic(path: Path, data: bytes) -> None:
    """Write to a temporary name, fsync, rename. Readers see the old file or the new one, never half."""
    with full_disk_is_a_user_error(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # As long as a name may be, whatever the length of the file's own.
        temporary = path.with_name(f".{sha256(path.name.encode())[:_CHECKSUM_LENGTH]}.{uuid4().hex[:8]}.tmp")
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        fsync_folder(path.parent)


def replace(source: Path, target: Path) -> None:
    """Give a file that is whole the place of another, durably; both must be on one disk."""
    with source.open("rb") as file:
        os.fsync(file.fileno())
    source.replace(target)
    fsync_folder(target.parent)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    write_atomic(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write plain data as indented JSON, atomically. NaN is refused."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def fsync_folder(folder: Path) -> None:
    """Make renames in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_named_by_checksum(folder: Path, stem: str, suffix: str, data: bytes) -> Path:
    """Write `<stem>.<checksum><suffix>` atomically and return its path."""
    path = folder / f"{stem}.{sha256(data)[:_CHECKSUM_LENGTH]}{suffix}"
    write_atomic(path, data)
    return path


def verify_named_by_checksum(path: Path, suffix: str) -> None:
    """Raise ArtifactError if a file's bytes do not match the checksum in its name."""
    expected = path.name.removesuffix(suffix).rpartition(".")[2]
    if sha256_file(path)[:_CHECKSUM_LENGTH] != expected:
        raise ArtifactError(f"{path} is damaged: its bytes do not match its checksum.")


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files that a killed process left in a folder."""
    for leftover in folder.glob(".*.tmp"):
        leftover.unlink(missing_ok=True)

"""The artifact store: checksummed directories of safetensors and JSON, named by what made them."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from meds.core import files
from meds.core.errors import ArtifactError, PluginError, UserError

if TYPE_CHECKING:
    from torch import Tensor

# Version 1 had manifests without a checksum of their own, and is read too.
FORMAT_VERSION = 2
MANIFEST = "manifest.json"
CHECKSUM = "checksum"


class Artifact:
    """A finished artifact: a manifest and its files, verified when opened."""

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path = path
        self.manifest = manifest

    @property
    def fingerprint(self) -> str:
        """The artifact's name in the store (hex)."""
        return str(self.manifest["fingerprint"])

    @property
    def kind(self) -> str:
        """What it holds, for example "memory-scores" or "student"."""
        return str(self.manifest["kind"])

    @property
    def info(self) -> dict[str, Any]:
        """Plain facts that the stage noted for its consumers."""
        return dict(self.manifest["info"])

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors of `<name>.safetensors`, on the CPU."""
        from safetensors.torch import load_file

        return dict(load_file(self.path / f"{name}.safetensors"))

    def json(self, name: str) -> Any:
        """The plain data of `<name>.json`."""
        return json.loads((self.path / f"{name}.json").read_text(encoding="utf-8"))


class ArtifactWriter:
    """Collects a stage's output in a temporary directory; `finish` makes it an artifact at once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.info: dict[str, Any] = {}
        self._sums: dict[str, str] = {}
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)

    def write_tensors(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Write `<name>.safetensors`."""
        self._write(f"{name}.safetensors", tensor_bytes(tensors))

    def write_json(self, name: str, value: Any) -> None:
        """Write `<name>.json`; NaN is refused.

        Raises:
            PluginError: the name is that of what every artifact says of itself.
        """
        if f"{name}.json" == MANIFEST:
            raise PluginError(f"'{name}' is the name of the artifact's own description: write under another one.")
        self._write(f"{name}.json", json.dumps(value, ensure_ascii=False, allow_nan=False).encode())

    def _write(self, name: str, data: bytes) -> None:
        files.write_atomic(self.folder / name, data)
        self._sums[name] = files.sha256(data)

    def bytes_written(self) -> int:
        """Bytes written so far."""
        return sum((self.folder / name).stat().st_size for name in self._sums)

    def finish(self, target: Path, manifest: Mapping[str, Any]) -> Artifact:
        """Write the manifest and rename the directory into place."""
        whole = {"format_version": FORMAT_VERSION, **manifest, "info": self.info, "files": self._sums}
        # As it will be read: JSON turns keys into text and tuples into lists.
        whole = json.loads(json.dumps(whole))
        files.write_json(self.folder / MANIFEST, {**whole, CHECKSUM: files.fingerprint(whole)})
        target.parent.mkdir(parents=True, exist_ok=True)
        # Whoever reads the former one finds it whole or not at all, never half of it.
        former = self.folder.with_name(f"{self.folder.name}-replaces")
        shutil.rmtree(former, ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):
            target.rename(former)
        self.folder.rename(target)
        files.fsync_folder(target.parent)
        shutil.rmtree(former, ignore_errors=True)
        return Artifact(target, whole)


class NoOutput(ArtifactWriter):
    """Stands in where a stage is asked for a scorer or an estimate and must not write."""

    def __init__(self) -> None:
        self.info = {}

    def _write(self, name: str, data: bytes) -> None:  # noqa: ARG002
        raise ArtifactError(f"{name}: only a stage that runs may write an artifact.")


class Store:
    """All artifacts under one folder, by fingerprint; one writer at a time for each."""

    def __init__(self, home: Path) -> None:
        self.root = home / "store"

    def path(self, fingerprint: str) -> Path:
        """Where the artifact of that fingerprint is or would be."""
        return self.root / fingerprint[:2] / fingerprint

    def work(self, fingerprint: str) -> Path:
        """A folder for the checkpoints and unfinished output of that artifact."""
        return self.root / "work" / fingerprint

    def has(self, fingerprint: str) -> bool:
        """Whether a finished artifact is there (not verified)."""
        return (self.path(fingerprint) / MANIFEST).is_file()

    def open(self, fingerprint: str) -> Artifact:
        """Open and verify; ArtifactError names the file that is missing or damaged."""
        folder = self.path(fingerprint)
        manifest = read_manifest(folder)
        for name, checksum in manifest["files"].items():
            file = folder / name
            try:
                found = files.sha256_file(file)
            except FileNotFoundError:
                raise ArtifactError(f"{file} is missing.") from None
            except OSError as error:
                raise ArtifactError(f"{file} cannot be read ({error.strerror}).") from None
            if found != checksum:
                raise ArtifactError(f"{file} is damaged: its bytes do not match its checksum.")
        if manifest["fingerprint"] != fingerprint:
            raise ArtifactError(f"{folder / MANIFEST} belongs to another artifact.")
        return Artifact(folder, manifest)

    def discard(self, fingerprint: str) -> None:
        """Remove an artifact."""
        shutil.rmtree(self.path(fingerprint), ignore_errors=True)

    def lock(self, name: str, on_wait: str, say: Callable[[str], None]) -> AbstractContextManager[None]:
        """Hold the right to write an artifact; if another process has it, say so and wait."""
        return locked(self.root / "locks" / f"{name}.lock", on_wait, say)

    def fingerprints(self) -> list[str]:
        """Fingerprints of all finished artifacts, sorted."""
        return sorted(manifest.parent.name for manifest in self.root.glob(f"??/*/{MANIFEST}"))


def read_manifest(folder: Path) -> dict[str, Any]:
    """An artifact's manifest; ArtifactError if it is missing, not readable or not as it was written."""
    path = folder / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        version, checksum = manifest["format_version"], manifest.pop(CHECKSUM, None)
        manifest["files"], manifest["fingerprint"], manifest["info"], manifest["kind"]
    except FileNotFoundError:
        raise ArtifactError(f"{path} is missing.") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{path} is damaged ({error}).") from None
    if checksum != files.fingerprint(manifest) and not (version == 1 and checksum is None):
        raise ArtifactError(f"{path} is damaged: it does not match its checksum.")
    if version not in (1, FORMAT_VERSION):
        raise UserError(
            f"{path} has format {version}, this version of meds reads {FORMAT_VERSION}; "
            "remove the folder to compute it again."
        )
    return manifest


def tensor_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """Tensors in the safetensors format; they are copied to the CPU and made contiguous."""
    from safetensors.torch import save

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return bytes(save(plain, dict(metadata) if metadata else None))


@contextmanager
def locked(path: Path, on_wait: str, say: Callable[[str], None]) -> Iterator[None]:
    """Hold a lock file; if another process has it, say so once and wait."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(on_wait)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()

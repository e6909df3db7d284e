"""What is on disk: whole files or none, artifacts that prove their bytes, the feature cache and checkpoints."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from meds.core import checkpoint, files
from meds.core.checkpoint import Checkpoints
from meds.core.errors import ArtifactError, ResourceError
from meds.core.feature_cache import SUFFIX, FeatureCache, bytes_per_image, folder_bytes
from meds.core.in_use import in_use, used_by_others
from meds.core.store import Artifact, ArtifactWriter, Store

GIB = 2**30
FINGERPRINT = "ab" + "0" * 62


def stored(store: Store, fingerprint: str = FINGERPRINT) -> Artifact:
    """An artifact with two tensors, a JSON file and a fact."""
    writer = ArtifactWriter(store.work(fingerprint) / "output")
    writer.write_tensors("scores", {"maps": torch.arange(12.0).reshape(3, 4), "half": torch.ones(2).half()})
    writer.write_json("rows", [{"class": "ä", "selected": 3}])
    writer.info["distance"] = "cosine"
    return writer.finish(store.path(fingerprint), {"kind": "memory-scores", "fingerprint": fingerprint})


def flip(path: Path, place: int = -1) -> None:
    """Change one byte of a file."""
    data = bytearray(path.read_bytes())
    data[place] ^= 0xFF
    path.write_bytes(bytes(data))


def shards(cache: FeatureCache, layer: str = "layer") -> list[Path]:
    return sorted((cache.folder / layer).glob(f"*{SUFFIX}"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "home")


@pytest.fixture
def cache(tmp_path: Path) -> FeatureCache:
    return FeatureCache(tmp_path / "home", "net-fp32", GIB)


def test_a_failed_write_leaves_the_old_file_and_no_temporary_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "deep" / "run.json"
    files.write_json(path, {"status": "old"})

    def fail(_: int) -> None:
        raise OSError(5, "input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="input/output"):
            files.write_json(path, {"status": "new"})
    assert path.read_text() == '{\n  "status": "old"\n}\n'
    assert [p.name for p in path.parent.iterdir()] == ["run.json"]
    files.write_json(path, {"status": "new"})
    assert "new" in path.read_text()


def test_json_refuses_nan_and_keeps_the_old_file(tmp_path: Path) -> None:
    files.write_json(tmp_path / "metrics.json", {"a": None})
    with pytest.raises(ValueError):
        files.write_json(tmp_path / "metrics.json", {"a": float("nan")})
    assert (tmp_path / "metrics.json").read_text() == '{\n  "a": null\n}\n'


def test_artifact_round_trip(store: Store) -> None:
    ArtifactWriter(store.work(FINGERPRINT) / "output").write_json("rows", [])
    assert not store.has(FINGERPRINT)
    assert store.fingerprints() == []
    stored(store)
    artifact = store.open(FINGERPRINT)
    assert store.has(FINGERPRINT)
    assert store.fingerprints() == [FINGERPRINT]
    assert (artifact.kind, artifact.fingerprint) == ("memory-scores", FINGERPRINT)
    assert artifact.info == {"distance": "cosine"}
    assert artifact.json("rows") == [{"class": "ä", "selected": 3}]
    tensors = artifact.tensors("scores")
    assert torch.equal(tensors["maps"], torch.arange(12.0).reshape(3, 4))
    assert tensors["half"].dtype == torch.float16
    assert not (store.work(FINGERPRINT) / "output").exists()
    store.discard(FINGERPRINT)
    assert not store.has(FINGERPRINT)


def test_an_artifact_that_is_replaced_is_never_seen_half(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    stored(store)
    seen = []
    rmtree = shutil.rmtree

    def watched(path: Path, **more: Any) -> None:
        seen.append(store.open(FINGERPRINT).info)
        rmtree(path, **more)

    writer = ArtifactWriter(store.work(FINGERPRINT) / "output")
    writer.write_json("rows", [])
    writer.info["distance"] = "euclidean"
    monkeypatch.setattr(shutil, "rmtree", watched)
    writer.finish(store.path(FINGERPRINT), {"kind": "memory-scores", "fingerprint": FINGERPRINT})
    assert [info["distance"] for info in seen] == ["cosine", "euclidean"]
    assert not any(path.name.endswith("-replaces") for path in store.work(FINGERPRINT).iterdir())


@pytest.mark.parametrize("name", ["scores.safetensors", "rows.json"])
def test_one_flipped_byte_is_found_and_the_file_named(store: Store, name: str) -> None:
    flip(stored(store).path / name)
    with pytest.raises(ArtifactError) as caught:
        store.open(FINGERPRINT)
    assert str(store.path(FINGERPRINT) / name) in str(caught.value)
    assert "damaged" in str(caught.value)


@pytest.mark.parametrize("name", ["scores.safetensors", "manifest.json"])
def test_a_missing_file_is_named(store: Store, name: str) -> None:
    (stored(store).path / name).unlink()
    with pytest.raises(ArtifactError) as caught:
        store.open(FINGERPRINT)
    assert str(caught.value) == f"{store.path(FINGERPRINT) / name} is missing."


def test_features_that_another_run_uses_are_not_cleared_away(tmp_path: Path) -> None:
    other, own = (FeatureCache(tmp_path, name, 100_000) for name in ("other", "own"))
    maps = torch.zeros(32, 4, 10, 10)
    other.write([f"{i:064x}" for i in range(32)], "layer", maps)
    with use_by_another_process(other.folder):
        with pytest.raises(ResourceError, match=r"other runs are using what it holds; wait until"):
            own.make_room(90_000, 90_000, [], [])
        with pytest.raises(ResourceError, match=r"other runs are using what it holds; wait until"):
            other.make_room(90_000, 90_000, [], [])
        assert shards(other)
    own.make_room(90_000, 90_000, [], [])
    assert not other.folder.exists()


def test_a_run_s_own_shards_may_exceed_the_limit_a_little(tmp_path: Path) -> None:
    """A shard is kept whole for the one of its images that a run reads; no other run is to blame."""
    cache = FeatureCache(tmp_path, "own", 30_000)
    names = [f"{i:064x}" for i in range(32)]
    cache.write(names, "layer", torch.zeros(32, 4, 10, 10))
    cache.make_room(8_000, 9_000, names[:1], ["layer"])
    assert not cache.missing(names, ["layer"])


def test_a_mark_of_a_process_that_is_gone_holds_nothing(tmp_path: Path) -> None:
    (tmp_path / ".in-use-1-0").touch()
    with in_use(tmp_path):
        assert not used_by_others(tmp_path)
    assert not list(tmp_path.iterdir())


def test_processes_of_one_number_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In containers of their own, which may share a home, the first process has the number 1."""
    monkeypatch.setattr(os, "getpid", lambda: 1)
    with use_by_another_process(tmp_path, "import os; os.getpid = lambda: 1\n"):
        assert used_by_others(tmp_path)
        with in_use(tmp_path), in_use(tmp_path):
            assert used_by_others(tmp_path)
    assert not used_by_others(tmp_path)


@contextmanager
def use_by_another_process(folder: Path, before: str = "") -> Iterator[None]:
    code = before + "import sys; from pathlib import Path; from meds.core.in_use import in_use\n"
    code += "with in_use(Path(sys.argv[1])): print('ready', flush=True); input()"
    command = [sys.executable, "-c", code, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield
        process.communicate("\n")


def test_features_that_are_gone_are_told(cache: FeatureCache) -> None:
    with pytest.raises(ArtifactError, match=r"layer: features of the run's images are gone; run its spec with --force"):
        cache.read(["0" * 64], "layer")


def test_a_shard_that_is_gone_is_told_and_its_images_count_as_missing(cache: FeatureCache, tmp_path: Path) -> None:
    cache.write(["a"], "layer", torch.zeros(1, 1, 2, 2))
    again = FeatureCache(tmp_path / "home", "net-fp32", GIB)
    assert not again.missing(["a"], ["layer"])
    (shard,) = shards(cache)
    shard.unlink()
    with pytest.raises(ArtifactError, match=r"layer: features of the run's images are gone; run its spec with --force"):
        again.read(["a"], "layer")
    again.verify(["a"], ["layer"])
    assert again.damaged == [f"{shard} is missing."]
    assert again.missing(["a"], ["layer"]) == ["a"]


def test_a_checkpoint_of_a_class_with_a_long_name(tmp_path: Path) -> None:
    for name in ("螺" * 60, "螺" * 59 + "丝"):
        Checkpoints(tmp_path, f"fit-{name}").save(3, {"weight": torch.full((1,), float(len(name.rstrip("丝"))))})
    assert len(list(tmp_path.iterdir())) == 2
    found = Checkpoints(tmp_path, "fit-" + "螺" * 60).load()
    assert found is not None
    assert found["weight"].item() == 60


def test_any_change_of_a_manifest_is_found(store: Store) -> None:
    path = stored(store).path / "manifest.json"
    text = path.read_text()
    for old, new in [("memory-scores", "memory-score5"), ("cosine", "cosinf"), ("checksum", "checksun")]:
        path.write_text(text.replace(old, new))
        with pytest.raises(ArtifactError, match=r"manifest\.json is damaged"):
            store.open(FINGERPRINT)


def test_an_artifact_from_before_manifests_had_checksums_is_read(store: Store) -> None:
    path = stored(store).path / "manifest.json"
    whole = json.loads(path.read_text())
    del whole["checksum"]
    path.write_text(json.dumps({**whole, "format_version": 1}))
    assert store.open(FINGERPRINT).info == {"distance": "cosine"}


@pytest.mark.parametrize("text", ["{", "[]", '{"format_version": 1}'])
def test_a_damaged_manifest_is_named(store: Store, text: str) -> None:
    (stored(store).path / "manifest.json").write_text(text)
    with pytest.raises(ArtifactError, match=r"manifest\.json is damaged"):
        store.open(FINGERPRINT)


def test_an_artifact_under_another_name_is_refused(store: Store) -> None:
    other = "cd" + "0" * 62
    path = stored(store).path
    store.path(other).parent.mkdir(parents=True)
    path.rename(store.path(other))
    with pytest.raises(ArtifactError, match="belongs to another artifact"):
        store.open(other)


def test_features_come_back_in_half_precision(cache: FeatureCache, tmp_path: Path) -> None:
    maps = torch.rand(3, 2, 4, 4)
    assert cache.missing(["a", "b", "a", "c"], ["layer"]) == ["a", "b", "c"]
    cache.write(["a", "b", "c"], "layer", maps)
    again = FeatureCache(tmp_path / "home", "net-fp32", GIB)
    assert again.missing(["c", "d", "a"], ["layer"]) == ["d"]
    assert again.missing(["a"], ["layer", "other"]) == ["a"]
    found = again.read(["c", "a"], "layer")
    assert found.dtype == torch.float16
    assert torch.equal(found, maps[[2, 0]].half())
    assert len(shards(again)) == 1


def test_features_too_large_for_half_precision_are_kept_whole(cache: FeatureCache, tmp_path: Path) -> None:
    maps = torch.rand(2, 1, 2, 2)
    maps[1, 0, 1, 1] = 70_000.0
    cache.write(["a", "b"], "layer", maps)
    found = FeatureCache(tmp_path / "home", "net-fp32", GIB).read(["a", "b"], "layer")
    assert found.dtype == torch.float32
    assert torch.equal(found, maps)


def test_only_so_many_shards_stay_open(cache: FeatureCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meds.core.feature_cache.OPEN_SHARDS", 3)
    maps = torch.randn(8, 2, 3, 3).half()
    for number, values in enumerate(maps):
        cache.write([f"{number:016x}"], "layer", values[None])
    order = torch.randint(8, (40,), generator=torch.Generator().manual_seed(0)).tolist()
    names = [f"{number:016x}" for number in order]
    assert torch.equal(cache.read(names, "layer"), maps[order])
    assert len(cache._opened) == 3


def test_features_that_are_there_are_not_written_again(cache: FeatureCache) -> None:
    cache.write(["a", "b"], "layer", torch.zeros(2, 1, 2, 2))
    cache.write(["b", "c"], "layer", torch.ones(2, 1, 2, 2))
    assert cache.read(["a", "b", "c"], "layer")[:, 0, 0, 0].tolist() == [0.0, 0.0, 1.0]
    assert len(shards(cache)) == 2
    cache.write(["a", "c"], "layer", torch.ones(2, 1, 2, 2))
    assert len(shards(cache)) == 2


@pytest.mark.parametrize("place", [-1, 0], ids=["values", "header"])
def test_a_damaged_shard_is_removed_and_its_images_count_as_missing(
    cache: FeatureCache, tmp_path: Path, place: int
) -> None:
    cache.write(["a", "b"], "layer", torch.zeros(2, 1, 2, 2))
    cache.write(["c"], "layer", torch.ones(1, 1, 2, 2))
    damaged = next(path for path in shards(cache) if path.name.startswith("a."))
    flip(damaged, place)
    again = FeatureCache(tmp_path / "home", "net-fp32", GIB)
    again.verify(["a", "b", "c"], ["layer"])
    assert len(again.damaged) == 1
    assert str(damaged) in again.damaged[0]
    assert not damaged.exists()
    assert again.missing(["a", "b", "c"], ["layer"]) == ["a", "b"]
    again.write(["a", "b"], "layer", torch.zeros(2, 1, 2, 2))
    assert again.read(["b", "c"], "layer")[:, 0, 0, 0].tolist() == [0.0, 1.0]


def test_a_damaged_shard_is_never_read(cache: FeatureCache, tmp_path: Path) -> None:
    cache.write(["a"], "layer", torch.zeros(1, 1, 2, 2))
    flip(shards(cache)[0])
    with pytest.raises(ArtifactError, match="damaged"):
        FeatureCache(tmp_path / "home", "net-fp32", GIB).read(["a"], "layer")


def test_features_beyond_the_limit_are_refused(tmp_path: Path) -> None:
    small = FeatureCache(tmp_path / "home", "net-fp32", GIB)
    with pytest.raises(ResourceError, match=r"need 2\.0 GiB and the cache may hold 1\.0 GiB; set MEDS_CACHE_GIB"):
        small.make_room(2 * GIB, 2 * GIB, ["a"], ["layer"])


def test_room_is_made_from_the_backbones_used_longest_ago(tmp_path: Path) -> None:
    for age, name in enumerate(("newest", "middle", "oldest")):
        other = FeatureCache(tmp_path, name, GIB)
        other.write(["a"], "layer", torch.zeros(1, 1, 16, 16))
        os.utime(other.folder, (1e9 - age, 1e9 - age))
    each = folder_bytes(tmp_path / "features" / "oldest")
    own = FeatureCache(tmp_path, "own", 4 * each)
    own.write(["a"], "layer", torch.zeros(1, 1, 16, 16))
    own.make_room(0, each, ["a"], ["layer"])
    assert {f.name for f in own.root.iterdir()} == {"own", "newest", "middle", "oldest"}
    own.make_room(each, 2 * each, ["a"], ["layer"])
    assert {f.name for f in own.root.iterdir()} == {"own", "newest", "middle"}
    own.make_room(3 * each, 4 * each, ["a"], ["layer"])
    assert {f.name for f in own.root.iterdir()} == {"own"}
    assert own.read(["a"], "layer").shape == (1, 1, 16, 16)


def test_room_is_made_from_unread_features_of_the_same_backbone(tmp_path: Path) -> None:
    own = FeatureCache(tmp_path, "own", GIB)
    for digest, layer in (("a", "wanted"), ("b", "wanted"), ("a", "other")):
        own.write([digest], layer, torch.zeros(1, 1, 16, 16))
    each = folder_bytes(own.folder) // 3
    small = FeatureCache(tmp_path, "own", 3 * each)
    small.make_room(2 * each, 3 * each, ["a", "c"], ["wanted"])
    assert not small.missing(["a"], ["wanted"])
    assert small.missing(["b"], ["wanted"]) == ["b"]
    assert small.missing(["a"], ["other"]) == ["a"]


def test_bytes_of_an_image_are_what_its_shard_holds(cache: FeatureCache) -> None:
    from meds.core.backbone import Layer

    cache.write(["a", "b"], "layer", torch.zeros(2, 8, 16, 16))
    wanted = 2 * bytes_per_image([Layer("layer", 8, 16, 16)])
    assert wanted <= folder_bytes(cache.folder) < wanted + 512


def test_the_newest_whole_checkpoint_is_loaded(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, "distill-all")
    assert checkpoints.load() is None
    checkpoints.save(10, {"weight": torch.tensor([1.0])})
    old = next(tmp_path.glob("*10.*"))
    kept = old.read_bytes()
    checkpoints.save(20, {"weight": torch.tensor([2.0])})
    assert [path.name.split(".")[0] for path in tmp_path.iterdir()] == ["distill-all-000000020"]
    old.write_bytes(kept)
    found = checkpoints.load()
    assert found is not None
    assert found["weight"].item() == 2.0
    damaged = next(tmp_path.glob("*20.*"))
    flip(damaged)
    found = Checkpoints(tmp_path, "distill-all").load()
    assert found is not None
    assert found["weight"].item() == 1.0
    assert not damaged.exists()
    flip(old)
    assert checkpoints.load() is None


def test_checkpoints_of_other_trainings_are_left_alone(tmp_path: Path) -> None:
    names = ["fit-a", "fit-a-b", "fit-a/b", "fit-[a]", "fit-a-000000009"]
    for value, name in enumerate([*names, "fit-a"]):
        Checkpoints(tmp_path, name).save(9, {"weight": torch.tensor([value])})
    for name, value in zip(names, (5, 1, 2, 3, 4), strict=True):
        found = Checkpoints(tmp_path, name).load()
        assert found is not None
        assert found["weight"].item() == value


@pytest.mark.parametrize(("asked", "took", "waits"), [(None, 0.1, 20), (None, 6.0, 200), ("2", 6.0, 2), ("0", 6.0, 0)])
def test_a_checkpoint_that_takes_long_is_written_less_often_unless_the_seconds_are_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str | None, took: float, waits: float
) -> None:
    now = 1000.0
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now)
    write = checkpoint.files.write_named_by_checksum

    def slowly(*arguments: Any) -> Path:
        nonlocal now
        now += took
        return write(*arguments)

    monkeypatch.setattr(checkpoint.files, "write_named_by_checksum", slowly)
    if asked is not None:
        monkeypatch.setenv("MEDS_CHECKPOINT_SECONDS", asked)
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.due() == (waits == 0)
    now += 20
    assert checkpoints.due()
    checkpoints.save(1, {"weight": torch.zeros(1)})
    now += waits * 0.999
    assert checkpoints.due() == (waits == 0)
    now += waits * 0.002
    assert checkpoints.due()

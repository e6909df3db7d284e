"""What people have decided about images: an append-only table, and what it does to a run's data."""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, get_args

from filelock import FileLock

from meds.core import files
from meds.core.data import RunData, Sample, check_classes
from meds.core.dataset import ANOMALOUS
from meds.core.errors import DataError

Verdict = Literal["defect", "normal", "unsure", "undone"]
COLUMNS = ("path", "sha256", "decision", "who", "when")


@dataclass(frozen=True)
class Decision:
    """One row: an image, what was decided, by whom and when (ISO 8601, UTC). For "undone" see `standing`."""

    path: str
    sha256: str
    decision: Verdict
    who: str
    when: str


def decided_now(sample: Sample, decision: Verdict, who: str) -> Decision:
    """A decision about an image of a run, made at this moment."""
    return Decision(sample.record.path, sample.digest, decision, who, datetime.now(UTC).isoformat(timespec="seconds"))


def append_decision(path: Path, decision: Decision) -> None:
    """Add a row to the table; it is on the disk when this returns. Several processes may add to one table."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _lock(path), path.open("ab") as file:
        _mend(path)
        new = file.seek(0, os.SEEK_END) == 0
        text = io.StringIO()
        # A table that was made by hand may have the columns in another order.
        columns = COLUMNS if new else _columns(path)
        writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(asdict(decision))
        file.write(text.getvalue().encode())
        file.flush()
        os.fsync(file.fileno())
        if new:
            files.fsync_folder(path.parent)


def mended_decisions(path: Path) -> list[Decision]:
    """All rows in their order, none if there is no file; half a row that a killed process left is removed.

    Nobody has been told that such a row was written. Raises DataError as `read_decisions`.
    """
    if not path.exists():
        return []
    with _lock(path):
        _mend(path)
        return read_decisions(path) if path.stat().st_size else []


def _lock(path: Path) -> FileLock:
    return FileLock(path.with_name(f".{path.name}.lock"))


def _mend(path: Path) -> None:
    """Cut off half a row at the end of the table, or give a whole one its line's end; needs the lock."""
    content = path.read_bytes()
    whole = _end_of_whole_lines(content)
    if whole == len(content):
        return
    if whole == 0 and ",".join(COLUMNS).encode().startswith(content):
        os.truncate(path, 0)
        return
    _rows(_text(content[:whole] or content, path), path)
    try:
        _rows(_text(content, path), path)
    except DataError:
        os.truncate(path, whole)
    else:
        with path.open("ab") as file:
            file.write(b"\n")


def _end_of_whole_lines(content: bytes) -> int:
    """Where the last line ends that is whole: a line's end inside quotation marks is part of a name."""
    end = len(content)
    while end and (content[end - 1 : end] != b"\n" or content.count(b'"', 0, end) % 2):
        end = content.rfind(b"\n", 0, end - 1) + 1
    return end


def read_decisions(path: Path) -> list[Decision]:
    """All rows in their order.

    Raises:
        DataError: the file is missing or a row is not understood; names the line.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        reason = "there is no such file" if isinstance(error, FileNotFoundError) else error.strerror
        raise DataError(f"{path}: the decisions cannot be read: {reason}.") from None
    return _rows(_text(content, path), path)


def _text(content: bytes, path: Path) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(
            f"{path}: this is no table of decisions, because it is no UTF-8 text; check the path."
        ) from None


def _columns(path: Path) -> list[str]:
    """The columns of a table, in its own order; DataError if it is none."""
    with path.open("rb") as file:
        text = _text(file.readline(), path)
    _rows(text, path)
    return next(csv.reader([text]))


def _rows(text: str, path: Path) -> list[Decision]:
    reader = csv.DictReader(io.StringIO(text))
    lacking = [name for name in COLUMNS[:3] if name not in (reader.fieldnames or ())]
    if lacking:
        raise DataError(f"{path}:1: the column '{lacking[0]}' is missing; decisions need {', '.join(COLUMNS)}.")
    found = []
    for row in reader:
        if row["decision"] not in get_args(Verdict) or not row["sha256"]:
            raise DataError(
                f"{path}:{reader.line_num}: '{row['decision']}' for '{row['path']}' is not understood; a decision is "
                f"{', '.join(get_args(Verdict)[:-1])} or undone, with the image's sha256."
            )
        values = {name: row.get(name) or "" for name in COLUMNS}
        found.append(Decision(**values))  # type: ignore[arg-type]
    return found


def standing(decisions: Sequence[Decision]) -> dict[str, Decision]:
    """The decision that stands about every image, by its sha256: the last one that was not taken back.

    "undone" takes back the last decision about the image by the same person (the last by anybody if that person has
    made none), so that what somebody else has decided before stands again.
    """
    history: dict[str, list[Decision]] = {}
    for decision in decisions:
        past = history.setdefault(decision.sha256, [])
        if decision.decision != "undone":
            past.append(decision)
        elif past:
            own = [place for place, earlier in enumerate(past) if earlier.who == decision.who]
            del past[own[-1] if own else -1]
    return {digest: past[-1] for digest, past in history.items() if past}


def apply_decisions(data: RunData, decisions: Mapping[str, Decision], defects_to_test: bool) -> RunData:
    """Confirmed defects leave the training images, confirmed normal images are marked.

    `defects_to_test` puts the defects among the test images, as anomalous ones without a mask. The noise report stays
    as the protocol wrote it and gets a block `decisions`: what was removed, confirmed, and which defects are left.
    """
    kept, dropped = [], []
    for sample in data.train:
        decision = decisions.get(sample.digest)
        if decision is not None and decision.decision == "defect":
            dropped.append(sample)
        else:
            kept.append(replace(sample, confirmed=decision is not None and decision.decision == "normal"))
    check_classes(data.class_names, [sample.record for sample in kept])
    test = list(data.test)
    if defects_to_test:
        known = {sample.digest for sample in test}
        test += [_as_test_image(sample) for sample in dropped if sample.digest not in known]
    noise = _noise_after(data, kept, dropped)
    return replace(data, train=tuple(kept), test=tuple(test), noise=noise)


def _as_test_image(sample: Sample) -> Sample:
    return Sample(replace(sample.record, split="test", label=ANOMALOUS), sample.digest, sample.class_index)


def _noise_after(data: RunData, kept: Sequence[Sample], dropped: Sequence[Sample]) -> dict[str, object]:
    noise = dict(data.noise)
    left = Counter(sample.record.class_name for sample in kept if sample.injected)
    gone = Counter(sample.record.class_name for sample in dropped)
    sure = Counter(sample.record.class_name for sample in kept if sample.confirmed)
    noise["decisions"] = {
        name: {"defects_removed": gone[name], "normals_confirmed": sure[name], "known_defects_left": left[name]}
        for name in data.class_names
    }
    return noise

"""The table of decisions: rows are only ever added, and a killed process costs its own row at most."""

from __future__ import annotations

import codecs
import csv
import io
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import get_args

from filelock import FileLock

from meds.core import files
from meds.core.decisions import Decision, Verdict
from meds.core.errors import DataError

COLUMNS = ("path", "sha256", "decision", "who", "when")
NEEDED = COLUMNS[:3]
VERDICTS = get_args(Verdict)
_OPEN_QUOTE = "unexpected end of data"


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

    Nobody has been told that such a row was written. Raises DataError as `read_decisions`, and then changes nothing.
    """
    if not path.exists():
        return []
    with _lock(path):
        return _mend(path)


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


def _lock(path: Path) -> FileLock:
    return FileLock(path.with_name(f".{path.name}.lock"))


def _mend(path: Path) -> list[Decision]:
    """Cut off half a row at the end of the table, or give a whole one its line's end; needs the lock.

    Returns the rows that are there then.
    """
    content = path.read_bytes()
    text = _text(_without_half_a_sign(content), path)
    if ",".join(COLUMNS).startswith(text):
        os.truncate(path, 0)
        return []
    _rows(text.partition("\n")[0], path)
    whole, last = _without_last_row(text, path)
    torn = bool(whole and last) and _is_torn(last, _names(whole))
    kept = whole if torn else text
    rows = _rows(kept, path)
    size = len(kept.encode()) + len(codecs.BOM_UTF8) * content.startswith(codecs.BOM_UTF8)
    if size < len(content):
        os.truncate(path, size)
    if last and not torn:
        with path.open("ab") as file:
            file.write(b"\n")
    return rows


def _without_half_a_sign(content: bytes) -> bytes:
    """Content without the first bytes of a sign whose others are missing at its end."""
    try:
        content.decode()
    except UnicodeDecodeError as error:
        if error.reason == "unexpected end of data":
            return content[: error.start]
    return content


def _without_last_row(text: str, path: Path) -> tuple[str, str]:
    """The rows that end in a line's end, which within quotation marks is part of a name, and what follows them.

    Raises DataError if an open quotation mark has swallowed whole rows, so that nobody's decisions are cut off.
    """
    lines = io.StringIO(text).readlines()
    reader, starts = csv.reader(lines, strict=True), [0]
    try:
        for _ in reader:
            starts.append(reader.line_num)
    except csv.Error as error:
        if str(error) != _OPEN_QUOTE:
            raise _no_row(path, reader.line_num, error) from None
        names, last = _names(lines[0]), starts[-1]
        if any(_is_whole(line, names) for line in lines[last + 1 :]):
            raise DataError(
                f"{path}:{last + 1}: a quotation mark opens in this row and never closes, so that the rows below it "
                "cannot be read; correct the row."
            ) from None
    else:
        last = starts[-1] if text.endswith("\n") else starts[-2]
    return "".join(lines[:last]), "".join(lines[last:])


def _is_torn(row: str, names: Sequence[str]) -> bool:
    """Whether the last row, which has no line's end, may be the beginning of one that a killed process wrote."""
    try:
        cells = next(csv.reader([row], strict=True))
    except csv.Error:
        return True
    place = max(names.index(name) for name in NEEDED)
    unfinished = len(cells) == place + 1 and names[place] == "decision" and cells[place] not in VERDICTS
    return len(cells) <= place or (unfinished and any(verdict.startswith(cells[place]) for verdict in VERDICTS))


def _is_whole(line: str, names: Sequence[str]) -> bool:
    """Whether a line alone is a row of the table."""
    cells = next(csv.reader([line]), [])
    return len(cells) == len(names) and cells[names.index("decision")] in VERDICTS


def _names(text: str) -> list[str]:
    return next(csv.reader([text.partition("\n")[0]]), [])


def _no_row(path: Path, line: int, error: csv.Error) -> DataError:
    return DataError(f"{path}:{line}: this is no row of a table ({error}); correct it.")


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
    return _names(text)


def _rows(text: str, path: Path) -> list[Decision]:
    reader = csv.DictReader(io.StringIO(text), strict=True)
    found = []
    try:
        lacking = [name for name in NEEDED if name not in (reader.fieldnames or ())]
        if lacking:
            by = " separated by commas, not semicolons" if ";" in text.partition("\n")[0] else ""
            raise DataError(f"{path}:1: the column '{lacking[0]}' is missing; decisions need {', '.join(COLUMNS)}{by}.")
        for row in reader:
            # As somebody types it into a spreadsheet.
            row["decision"] = (row["decision"] or "").strip().lower()
            if row["decision"] not in VERDICTS or not row["sha256"]:
                raise DataError(
                    f"{path}:{reader.line_num}: '{row['decision']}' for '{row['path']}' is not understood; a decision "
                    f"is {', '.join(VERDICTS[:-1])} or undone, with the image's sha256."
                )
            values = {name: row.get(name) or "" for name in COLUMNS}
            found.append(Decision(**values))  # type: ignore[arg-type]
    except csv.Error as error:
        raise _no_row(path, reader.line_num, error) from None
    return found

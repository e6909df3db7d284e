"""The folder that `meds predict` writes into: what of it may be replaced, and where a former call's files go."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from meds.core import files
from meds.core.errors import UserError
from meds.core.image_files import DRAWN, is_drawn, printable

COLUMNS = ("path", "class", "score", "threshold", "decision", "heatmap", "mask")
PICTURES = ("heatmap", "mask")
TABLE, LINES = "predictions.csv", "predictions.jsonl"
# Stands there while a call goes on, and stays if it is stopped.
UNFINISHED = "predictions-unfinished.txt"
EARLIER, STOPPED = "earlier", "unfinished"
_LOCK = ".predictions.lock"
_MOVING = ".former-predictions"
# What Windows leaves in a folder that somebody has looked at; that of macOS is hidden.
_OF_THE_SYSTEM = ("thumbs.db", "desktop.ini")
_ABOUT_PICTURES = (
    "`meds predict` drew the pictures in this folder: meds takes none of them for an image of yours, and the next call "
    "that writes to the same place puts the folder away, so keep files of your own elsewhere.\n"
)
_ABOUT_UNFINISHED = "`meds predict` has not come to its end: the tables here hold the images that were done by then.\n"


def check_output(output: Path, pictures: bool, images: Iterable[Path] = ()) -> None:
    """UserError if something of the user's would be overwritten or put away.

    That is: files in the folders of `pictures` (if they are to be written) that no earlier call drew, tables of another
    kind, other files where a former call's go, and `images` to be read that would be put away.
    """
    if output.exists() and not output.is_dir():
        raise UserError(f"--output {printable(output)} is a file; give the name of a folder.")
    for folder in _pictures(output) if pictures else ():
        if not is_drawn(folder):
            _check_empty(folder, "`meds predict` did not draw and would overwrite")
    _check_tables(output)
    leaving = [folder for folder in _pictures(output) if is_drawn(folder)]
    if _former(output):
        place = _place(output)
        _check_empty(place, "no earlier call of `meds predict` put there and this one would remove", _names(place))
        leaving.append(place)
    _check_stays(images, leaving, output)


@contextmanager
def writing_into(output: Path) -> Iterator[None]:
    """Keep the folder for this process while the block runs, and mark it as unfinished until the block has ended well.

    Raises UserError if another process writes into it.
    """
    output.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            stack.enter_context(FileLock(output / _LOCK, timeout=0))
        except Timeout:
            raise UserError(
                f"Another `meds predict` is writing into {printable(output)}; wait until it has ended, or give another "
                "folder with --output."
            ) from None
        yield
        (output / UNFINISHED).unlink(missing_ok=True)


def put_away(output: Path) -> Path | None:
    """Move what a former call wrote into a folder there, in the place of what is in it; where, or None if nothing is.

    What a call that was stopped left has a folder of its own, so that it never replaces the tables of a whole one.
    """
    place, moving = _place(output), output / _MOVING
    present = _former(output)
    # A killed process leaves this folder half full, and the next one goes on filling it.
    if not present and not moving.is_dir():
        return None
    moving.mkdir(exist_ok=True)
    for path in present:
        path.replace(moving / path.name)
    if place.is_dir():
        shutil.rmtree(place)
    moving.rename(place)
    return place


def begin(output: Path, pictures: bool) -> None:
    """Say in the folder that a call is going on, and mark the folders of its pictures."""
    files.write_text(output / UNFINISHED, _ABOUT_UNFINISHED)
    for folder in _pictures(output) if pictures else ():
        files.write_text(folder / DRAWN, _ABOUT_PICTURES)


def _pictures(folder: Path) -> list[Path]:
    return [folder / f"{kind}s" for kind in PICTURES]


def _former(output: Path) -> list[Path]:
    """What a former call left. The mark of an unfinished one comes last: until then it says where the rest goes."""
    present = [folder for folder in _pictures(output) if is_drawn(folder)]
    return present + [path for name in (LINES, TABLE, UNFINISHED) if (path := output / name).is_file()]


def _place(output: Path) -> Path:
    stopped = any((folder / UNFINISHED).is_file() for folder in (output, output / _MOVING))
    return output / (STOPPED if stopped else EARLIER)


def _names(place: Path) -> set[str]:
    """The names that a former call's files have in the folder that they were put into."""
    return {TABLE, LINES, UNFINISHED, *(folder.name for folder in _pictures(place) if is_drawn(folder))}


def _check_empty(folder: Path, what: str, known: Iterable[str] = ()) -> None:
    try:
        found = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    except FileNotFoundError:
        return
    except NotADirectoryError:
        raise UserError(
            f"{printable(folder)} is a file, and a folder of that name is needed; give another one with --output."
        ) from None
    strange = sorted(name for name in found - set(known) if name.lower() not in _OF_THE_SYSTEM)
    if strange:
        raise UserError(
            f"{printable(folder)} holds files that {what}, such as {printable(Path(strange[0]))}; give another folder "
            "with --output, or move them."
        )


def _check_tables(output: Path) -> None:
    table, lines = output / TABLE, output / LINES
    strange = None
    if table.is_file():
        header = ",".join(COLUMNS).encode() + b"\n"
        with table.open("rb") as file:
            # Empty if its call was killed at once.
            strange = table if file.read(len(header)) not in (header, b"") else None
    elif lines.is_file() and not (output / _MOVING).is_dir():
        strange = lines
    if strange is not None:
        raise UserError(
            f"{printable(strange)} is not a table of `meds predict`, which would replace it; give another folder with "
            "--output, or move it."
        )


def _check_stays(images: Iterable[Path], leaving: Iterable[Path], output: Path) -> None:
    folders = [folder.resolve() for folder in leaving]
    if not folders:
        return
    for parent in dict.fromkeys(path.parent for path in images):
        with contextlib.suppress(OSError):
            real = parent.resolve()
            if any(real.is_relative_to(folder) for folder in folders):
                raise UserError(
                    f"{printable(parent)}: a former call wrote what lies there, and this one would put it away; give "
                    f"another folder than {printable(output)} with --output."
                )

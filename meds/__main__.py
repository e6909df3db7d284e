"""The command `meds`: runs the command line and turns errors into one clear sentence and an exit code."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# ENOENT: a file system of the kernel's own, as `/proc`, takes no folder and says that there is none.
_UNUSABLE_PLACE = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG),
    *(errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENOENT),
}


def main() -> None:
    """Entry point of the command; exits with 0 (done), 2 (the user's mistake) or 1 (anything else).

    A command that is stopped exits with 128 and the number of the signal.
    """
    with _stops() as stopped:
        try:
            _run()
        except BaseException as end:
            # Libraries make an exit or an error of their own of an interruption.
            if not stopped or (isinstance(end, SystemExit) and not end.code):
                raise
            _tell(end, "stopped.")
            sys.exit(128 + stopped[0])


@contextmanager
def _stops() -> Iterator[list[int]]:
    """Within it SIGINT and SIGTERM interrupt what runs; gives the list that their numbers are added to.

    Batch systems and `kill` send SIGTERM, at which a process would else end without a word. A shell has commands
    ignore SIGINT that it starts in the background: those go on doing so.
    """
    stopped: list[int] = []

    def stop(number: int, _: FrameType | None) -> None:
        stopped.append(number)
        raise KeyboardInterrupt

    heard = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, stop) for number in heard}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run() -> None:
    """Run the command line, and exit with a sentence at an error that a user can do something about."""
    from meds.cli.app import app
    from meds.core.errors import MedsError

    try:
        app()
    except MedsError as error:
        if os.environ.get("MEDS_TRACEBACK"):
            raise
        _tell(error, str(error))
        sys.exit(error.exit_code)
    except OSError as error:
        if os.environ.get("MEDS_TRACEBACK") or error.errno not in _UNUSABLE_PLACE:
            raise
        reason = f"{error.filename} cannot be used ({error.strerror}); choose another place or change its permissions."
        _tell(error, reason)
        sys.exit(2)
    except (MemoryError, RuntimeError) as error:
        if os.environ.get("MEDS_TRACEBACK") or not _memory_is_full(error):
            raise
        _tell(
            error,
            "the memory is full; take a smaller `batch_size` or `image_size`, set `max_images` of the stage `memory` "
            "to half of a class's images or fewer, or close other programs.",
        )
        sys.exit(2)


def _memory_is_full(error: Exception) -> bool:
    """Whether Python, torch on a processor or torch on an accelerator could not get the memory that it asked for."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "can't allocate memory" in str(error)
    )


def _tell(error: BaseException, text: str) -> None:
    sys.stderr.write("\n".join([f"meds: {text}", *getattr(error, "__notes__", ())]) + "\n")


if __name__ == "__main__":
    main()

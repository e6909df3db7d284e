"""`meds review`: serves the pages on which people judge the suspicious training images of a run."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import TYPE_CHECKING

from meds.cli.console import console
from meds.core.errors import UserError

if TYPE_CHECKING:
    from meds.core.finished_run import FinishedRun


def review_run(path: Path, decisions: Path | None, who: str | None, port: int, browser: bool) -> None:
    """Serve the review of a finished run until Ctrl-C, then print the command that uses the decisions."""
    name = _checked(_login_name() if who is None else who)
    from meds.core.finished_run import FinishedRun
    from meds.review.app import create_app
    from meds.review.pages import next_command
    from meds.review.security import HOST, new_token
    from meds.review.server import listen, open_browser, serve
    from meds.review.session import Review

    run = FinishedRun(path)
    review = Review(run, decisions or _table(run), name)
    progress = review.progress()
    with listen(port) as listener:
        token, port = new_token(), listener.getsockname()[1]
        address = f"http://{HOST}:{port}/?token={token}"

        def started() -> None:
            _say(f"{progress.judged} of {progress.total} training images are judged.")
            _say(f"Decisions of {name} go to {review.journal.path}; every one is on the disk at once.")
            _say(f"Open {address}")
            _say("Ctrl-C stops.")
            if browser:
                open_browser(address)

        serve(create_app(run, review, token, port), listener, started)
    _say(f"To train again with what was decided: {next_command(review)}")


def _table(run: FinishedRun) -> Path:
    """The table that the run was made with, so that what it says stays in force; else one in the run's folder."""
    if run.spec.decisions is None:
        return run.path / "decisions.csv"
    table = run.spec.decisions.file
    if not table.is_file():
        raise UserError(f"The run was made with the decisions in {table}, which is not there; give --decisions.")
    return table


def _say(text: str) -> None:
    console.print(text, soft_wrap=True)


def _login_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        raise UserError("The login name of this user is not known; give a name with --who.") from None


def _checked(who: str) -> str:
    name = who.strip()
    if not name or not name.isprintable():
        raise UserError("--who needs a name of printable characters, such as --who ann.")
    return name

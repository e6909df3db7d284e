"""Whether a run can be opened with what is installed here; its tables can be read in any case."""

from __future__ import annotations

from functools import lru_cache

from meds.core.errors import SpecError
from meds.core.finished_run import FinishedRun


def unreadable_spec(run: FinishedRun) -> str | None:
    """Why the run's images and artifacts cannot be opened, as a sentence; None if they can.

    A run of another version of meds, or of a plugin that is missing, has a spec that is not understood here.
    """
    try:
        _ = run.spec
    except SpecError as error:
        reason = str(error).splitlines()[0].rstrip(".")
        return f"The run's spec is not understood by the version of meds and the plugins installed here ({reason})."
    return None


@lru_cache(maxsize=8)
def table(run: FinishedRun, name: str) -> list[dict[str, str]]:
    """The rows of a table of a run, read once however many classes ask for theirs; not to be changed."""
    return run.table(name)

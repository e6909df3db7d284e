"""Tells how to continue a command that fails or is stopped."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from meds.core.errors import DataError, PluginError, SelectionError
from meds.core.run_again import folder_option


def common_options(sets: Sequence[str], runs_dir: Path) -> list[str]:
    """The words of a command line for the options that every command which runs something has."""
    overrides = [word for override in sets for word in ("--set", override)]
    return [*overrides, *folder_option(runs_dir)]


@contextmanager
def told_how_to_continue(arguments: Sequence[str]) -> Iterator[None]:
    """Add `Continue with: meds <arguments>` to what ends the block: as a note to an error, else on standard error.

    Of a mistake that the same command would meet again it says that it is to be mended first.
    """
    text = f"Continue with: {shlex.join(['meds', *arguments])}"
    try:
        yield
    except (SelectionError, DataError, PluginError) as error:
        error.add_note(f"What was finished is kept. When this is mended: {shlex.join(['meds', *arguments])}")
        raise
    except Exception as error:
        error.add_note(text)
        raise
    except BaseException:
        sys.stderr.write(f"{text}\n")
        raise

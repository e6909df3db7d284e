"""The command `meds`: runs the command line and turns errors into one clear sentence and an exit code."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Entry point of the command; exits with 0 (done), 2 (the user's mistake) or 1 (anything else)."""
    from meds.cli.app import app
    from meds.core.errors import MedsError

    try:
        app()
    except MedsError as error:
        if os.environ.get("MEDS_TRACEBACK"):
            raise
        sys.stderr.write(f"meds: {error}\n")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.stderr.write("meds: stopped; run the same command again to continue.\n")
        sys.exit(130)


if __name__ == "__main__":
    main()

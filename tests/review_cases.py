"""What the tests of the review share: a review of the tiny run, a client that has its token, and a server process."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from meds.core.decision_table import read_decisions
from meds.core.decisions import standing
from meds.core.finished_run import FinishedRun
from meds.review.app import create_app
from meds.review.session import Review

PORT = 8123
TOKEN = "a-token-for-tests"
ORIGIN = f"http://127.0.0.1:{PORT}"


@dataclass
class Desk:
    """A finished run and one person's review of it, without a server."""

    path: Path
    who: str = "ann"
    run: FinishedRun = field(init=False)
    review: Review = field(init=False)

    def __post_init__(self) -> None:
        self.run = FinishedRun(self.path)
        self.review = Review(self.run, self.table, self.who)

    @property
    def table(self) -> Path:
        return self.path / "decisions.csv"

    @property
    def digests(self) -> list[str]:
        return [item.digest for item in self.review.items]

    def stranger(self, **options: Any) -> TestClient:
        """A client that has no token."""
        app = create_app(self.run, self.review, TOKEN, PORT)
        return TestClient(app, base_url=ORIGIN, follow_redirects=False, **options)

    def client(self, **options: Any) -> TestClient:
        """A client that has been given the token and posts from the review's own pages."""
        client = self.stranger(**options)
        assert client.get(f"/?token={TOKEN}").status_code == 200
        client.headers["origin"] = ORIGIN
        return client

    def verdicts(self) -> dict[str, str]:
        """What stands in the table, by sha256."""
        return {digest: row.decision for digest, row in standing(read_decisions(self.table)).items()}


def decide(client: TestClient, digest: str, verdict: str, **filters: str) -> str:
    """Post a decision; where the answer leads to."""
    answer = client.post("/decide", data={"sha256": digest, "decision": verdict, **filters})
    assert answer.status_code == 303, answer.text
    return answer.headers["location"]


class Server:
    """`meds review` in a process of its own."""

    def __init__(self, run: Path, who: str = "ann") -> None:
        self.run = run
        command = [sys.executable, "-m", "meds", "review", str(run), "--no-browser", "--who", who]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, "COLUMNS": "200"}
        )
        assert self.process.stdout is not None
        said = ""
        for line in self.process.stdout:
            said += line
            if found := re.search(r"http://127\.0\.0\.1:(\d+)/\?token=\S+", line):
                self.address = found[0]
                self.origin = f"http://127.0.0.1:{found[1]}"
                return
        raise AssertionError(f"the server did not start: {said}")

    def kill(self) -> None:
        """End it without any warning."""
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()

    def interrupt(self) -> tuple[int, str]:
        """Ctrl-C: the exit code and what was printed since the start."""
        self.process.send_signal(signal.SIGINT)
        said = self.process.communicate(timeout=60)[0]
        return self.process.returncode, said

"""Serves a review at this machine's own address until it is stopped."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
import webbrowser
from collections.abc import Callable

import uvicorn
from starlette.types import ASGIApp

from meds.core.errors import UserError
from meds.review.security import HOST


def listen(port: int) -> socket.socket:
    """A socket that listens at 127.0.0.1; port 0 takes any free one. UserError if the port is taken."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise UserError(f"--port {port} cannot be used ({error.strerror}); choose another, or leave it out.") from None
    return listener


def serve(app: ASGIApp, listener: socket.socket, started: Callable[[], None]) -> None:
    """Answer requests until Ctrl-C; `started` is called once the first can be answered."""
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, lifespan="off", timeout_graceful_shutdown=2
    )
    server = uvicorn.Server(config)

    def wait() -> None:
        while not server.started and not server.should_exit:
            time.sleep(0.02)
        if server.started:
            started()

    threading.Thread(target=wait, daemon=True).start()
    # uvicorn ends cleanly at Ctrl-C and then raises the signal once more.
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[listener])


def open_browser(address: str) -> None:
    """Open the page where there is a screen to show it on; a browser in the terminal would hide what was printed."""
    if sys.platform != "linux" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        webbrowser.open(address)

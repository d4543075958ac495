"""Being asked to end: SIGTERM becomes an exception, so that what is scored reaches the warehouse before the exit."""

import signal
import threading
from typing import Any


class Terminated(BaseException):
    """The job was asked to end."""


def on_sigterm() -> None:
    """From now on SIGTERM raises Terminated in the main thread."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _end)


def _end(*_: Any) -> None:
    raise Terminated

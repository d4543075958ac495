"""Connect to Ray: the cluster that RAY_ADDRESS names (a submitted job has it), else this machine."""

import logging
import os
import re
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import ray

from anyecg_ray.config import InputError, JobError
from anyecg_ray.sigterm import on_sigterm

RAY_DATA = ("iter_threaded", "StreamingExecutor", "ray-data-metadata-prefetch")
"""Prefixes of the names of Ray Data's driver threads that do come to an end."""

PREFETCHER = "ray.data._internal.block_batching.util"
"""Logger of the one Ray Data thread that never ends."""

PATIENCE = 5.0
"""Seconds to wait for them; they check a stop flag every 0.1 s."""


@contextmanager
def connected() -> Iterator[None]:
    """Ray for the length of a block; one that was connected before stays so afterwards.

    Ray says a good deal that its user can do nothing about; ANYECG_LOG=INFO lets it speak.
    """
    if ray.is_initialized():
        yield
        return
    level = os.environ.get("ANYECG_LOG", "ERROR").upper()
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal" if level == "ERROR" else level.lower())
    for name in ("ray", "ray.data", "ray.train"):
        logging.getLogger(name).setLevel(level)
    where: dict[str, Any] = {} if "RAY_ADDRESS" in os.environ else {"include_dashboard": False}
    # a worker's own lines are for its log file: they may name a record
    with _silent_start(level):
        ray.init(log_to_driver=False, logging_level=logging.getLevelName(level), **where)
    on_sigterm()  # Ray's own handler exits where it stands
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    try:
        yield
    finally:
        _wait_for_ray_data()
        # the prefetch thread outlives Ray; its errors about a missing Ray would only alarm the user
        logging.getLogger(PREFETCHER).setLevel(logging.CRITICAL)
        _hush_what_comes_late()
        ray.shutdown()


@lru_cache  # once in a process, around whatever hooks there are: a notebook or a test runner has its own
def _hush_what_comes_late() -> None:
    threading.excepthook = _unless_ray_is_gone(threading.excepthook)
    sys.unraisablehook = _unless_ray_is_gone(sys.unraisablehook)


def _unless_ray_is_gone(tell: Callable[[Any], object]) -> Callable[[Any], None]:
    """Wrap an exception hook so that it drops RaySystemErrors: they come from threads and objects that outlive Ray."""

    def filtered(error: Any) -> None:
        if not isinstance(error.exc_value, ray.exceptions.RaySystemError):
            tell(error)

    return filtered


def _wait_for_ray_data() -> None:
    """Let the threads end that a data set leaves behind when its reader stops early.

    One that touches Ray after it was shut down ends the whole process, with exit code 1 and without a word (Ray 2.60).
    """
    until = time.monotonic() + PATIENCE
    for thread in threading.enumerate():
        if thread.name.startswith(RAY_DATA):
            thread.join(max(0.0, until - time.monotonic()))


def explained(error: ray.exceptions.RayError) -> InputError | JobError:
    """One line instead of Ray's pages: what a worker raised, or how Ray itself failed.

    Of an exception that nobody foresaw it tells the type and the place: its message may name a record.
    """
    # what a worker raised comes as text: Ray Data wraps it and loses the object on the way
    text = str(error)
    if not isinstance(error, ray.exceptions.RayTaskError):
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return JobError(f"the pipeline failed ({type(error).__name__}: {lines[-1]}); run the same command to go on")
    if ours := re.search(r"^anyecg_ray\.(?:config|storage_errors)\.(\w+): (.*)$", text, re.MULTILINE):
        return (JobError if ours[1] == "JobError" else InputError)(ours[2])
    kind = re.search(r"^([A-Za-z_][\w.]*)(?:: .*)?$", text, re.MULTILINE)
    places = re.findall(r'/(anyecg_ray/[\w/]+\.py)", line (\d+)', text)
    where = " at {}:{}".format(*places[-1]) if places else ""
    told = f"{kind[1] if kind else type(error).__name__}{where}"
    return JobError(f"a task failed ({told}); run the same command to go on")


@contextmanager
def _silent_start(level: str) -> Iterator[None]:
    """Keep what Ray's own processes write to stderr while they start, and show it only where they fail."""
    if level != "ERROR":
        yield
        return
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile("w+") as said:
        os.dup2(said.fileno(), 2)
        try:
            yield
        except BaseException:
            said.seek(0)
            with os.fdopen(os.dup(terminal), "w") as out:
                shutil.copyfileobj(said, out)
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)

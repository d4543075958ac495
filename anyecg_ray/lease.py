"""One driver at a time on one output, and what it is doing, in OUT/staging/…/_driver.json.

A driver that was killed leaves its lease behind. On its own machine the next one sees that the process is gone; from
another it watches for a sign of life before it takes over. Two that start in the same moment both write; the last
one's name stands, and the other finds that out before it commits anything.
"""

import os
import socket
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import psutil

from anyecg_ray import json_file, storage
from anyecg_ray.config import InputError, JobError, one_line

FILE = "_driver.json"

BEAT = 10.0
"""Seconds between two signs of life."""

SILENT = 45.0
"""Seconds without a sign of life after which a driver on another machine counts as dead."""

KEPT = ("shards", "spans", "delivered")
"""Fields that a new driver takes over from the last one unless it sets them itself: `publish` knows no shards or
spans."""


class Lease:
    """The right to commit into one folder, held while the block runs."""

    def __init__(self, staging: str, told: dict[str, Any]) -> None:
        """told: what else the file says; `tell` changes it."""
        self._uri = storage.join(staging, FILE)
        self._told = {**told, **_me(), "state": "running", "started_at": time.time()}
        self._done = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> "Lease":
        before = read(self._uri)
        if before is not None and before.get("state") == "running":
            _wait_for_death(before, self._uri)
        self._told = {k: v for k, v in (before or {}).items() if k in KEPT} | self._told
        self._write()
        self._thread.start()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, _: Any) -> None:
        self._done.set()
        self._thread.join()
        self.tell(state="ended" if error is None else "stopped", error=None if error is None else one_line(error, 500))
        if self._is_mine():
            self._write()

    def tell(self, **told: Any) -> None:
        """Change what the file will say at the next beat; of a dict, the keys that are given."""
        with self._lock:
            for name, value in told.items():
                self._told[name] = {**self._told.get(name, {}), **value} if isinstance(value, dict) else value

    def check(self) -> None:
        """Raise JobError where another driver has taken over."""
        if not self._is_mine():
            raise JobError(f"another {_job(self._told)} has taken over this --out; this one stops, nothing is lost")

    def _is_mine(self) -> bool:
        found = read(self._uri)
        return found is not None and found["token"] == self._told["token"]

    def _beat(self) -> None:
        while not self._done.wait(BEAT):
            try:
                if self._is_mine():
                    self._write()
            except storage.StorageError:
                pass  # the next beat tries again; SILENT spans several

    def _write(self) -> None:
        with self._lock:
            told = {**self._told, "beat_at": time.time()}
        json_file.write(self._uri, told)


def read(uri: str) -> dict[str, Any] | None:
    """What the driver of an output last said, None where there never was one."""
    try:
        found: dict[str, Any] | None = json_file.read(uri)
        return found
    except ValueError:
        return None


def alive(told: dict[str, Any]) -> bool | None:
    """Whether the driver lives; None where this machine cannot tell."""
    if any(told.get(name) != mine for name, mine in _here().items()):
        return None
    try:
        process = psutil.Process(told["pid"])
        # one that ended stays until its parent asks, which in a container may be never
        return bool(process.create_time() == told["born"] and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _wait_for_death(before: dict[str, Any], uri: str) -> None:
    living = alive(before)
    if living is None:  # however long ago its last sign of life was: the clocks of two machines may differ
        print(
            f"another driver ({before['host']}) was here; watching {SILENT:.0f} s for a sign of life", file=sys.stderr
        )
        time.sleep(SILENT)
        after = read(uri) or before
        living = after["beat_at"] != before["beat_at"] and after["state"] == "running"
    if living:
        who = f"process {before['pid']} on {before['host']}"
        raise InputError(f"another {_job(before)} is at work on this --out ({who}); wait for it, or stop it first")


def _job(told: dict[str, Any]) -> str:
    return "pack" if told.get("verb") == "pack" else "back-fill"


def _me() -> dict[str, Any]:
    born = psutil.Process().create_time()
    return {
        "token": uuid.uuid4().hex,
        "pid": os.getpid(),
        "born": born,
        **_here(),
    }


def _here() -> dict[str, Any]:
    """What tells whether a process number means a process of ours: containers of one machine have their own."""
    namespace = Path("/proc/self/ns/pid")
    numbers = os.readlink(namespace) if namespace.exists() else None
    return {"host": socket.gethostname(), "boot": psutil.boot_time(), "numbers": numbers}

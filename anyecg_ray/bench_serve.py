"""Measure the endpoint as a stranger would: `anyecg serve` as its own process, loaded on loopback by `hey`.

One request is a WFDB record of one lead, ten seconds by default, which is one window, so that requests a second
compare with the model's windows a second. hey (https://github.com/rakyll/hey, `apt install hey`) tells of each request
when it began, how long it took and how it was answered; what is said here is computed from that.
"""

import csv
import io
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import requests
import wfdb

from anyecg_ray.backends import Compute
from anyecg_ray.config import InputError, JobError
from anyecg_ray.record import Record
from anyecg_ray.resource_usage import all_mb

START_S = 180.0
"""For so long the endpoint may start."""

OVERLOAD, SENDERS = 3, 512
"""Times as many requests a second as it answered at its best, from so many senders: it takes 128 on at a time."""

KILL_AFTER = 0.3
"""Share of its run after which a model's process is killed."""


class Request(NamedTuple):
    """One request as hey saw it: when it began and what it took in seconds, and its HTTP status."""

    began: float
    took: float
    status: int


class Server(NamedTuple):
    """The endpoint's process."""

    url: str
    process: psutil.Process

    def answered(self) -> int:
        """Requests that the endpoint itself has counted as estimated."""
        lines = requests.get(f"{self.url}/metrics", timeout=60).text.splitlines()
        wanted = [x for x in lines if x.startswith("anyecg_requests_total{") and 'status="200"' in x]
        return int(sum(float(x.rsplit(" ", 1)[1]) for x in wanted if "/v1/estimates" in x))


def measured(
    bundle: str,
    compute: Compute,
    record: Record,
    ecg_seconds: int,
    folder: Path,
    connections: Sequence[int],
    seconds: float,
    soak_minutes: float,
) -> dict[str, Any]:
    """Figures by number of connections, then over many minutes, overloaded, and with its model killed.

    record: its first ecg_seconds are sent. Raises InputError where hey is missing, JobError where the endpoint fails.
    """
    if shutil.which("hey") is None:
        raise InputError("bench serve loads the endpoint with hey, which is not here; apt install hey, or brew")
    load = _Load(folder, record, ecg_seconds)
    with _served(bundle, compute, folder) as server:
        windows = load.windows(server)
        load.run(server, 8, 5)  # warms up
        figures: dict[str, Any] = {f"connections_{n}": _figures(load.run(server, n, seconds)) for n in connections}
        if soak_minutes:
            figures["soak"] = _soak(load, server, soak_minutes)
        best = max(figures[f"connections_{n}"]["requests_per_s"] for n in connections)
        figures["overload"] = _overload(load, server, OVERLOAD * best, seconds)
        figures["killed"] = _killed(load, server, seconds)
    figures |= {"windows_of_a_request": windows, "serve_windows_per_s": best * windows}
    return figures


class _Load:
    """A request, and hey to send it."""

    def __init__(self, folder: Path, record: Record, ecg_seconds: int) -> None:
        n = round(ecg_seconds * record.fs)
        millivolts = np.nan_to_num(record.signals[:, :n].T)
        wfdb.wrsamp(
            "load", record.fs, list(record.units), list(record.leads), millivolts,
            fmt=["16"] * len(record.leads), write_dir=str(folder),
        )  # fmt: skip
        files = [("file", (f"load.{x}", (folder / f"load.{x}").read_bytes())) for x in ("hea", "dat")]
        request = requests.Request("POST", "http://localhost", files=files).prepare()
        assert isinstance(request.body, bytes)
        self._body, self._type = folder / "body", request.headers["Content-Type"]
        self._told = folder / "hey.csv"
        self._body.write_bytes(request.body)

    def windows(self, server: Server) -> int:
        """Windows of one request that the model reads. Raises InputError where there are none."""
        headers = {"Content-Type": self._type}
        got = requests.post(f"{server.url}/v1/estimates", data=self._body.read_bytes(), headers=headers, timeout=60)
        if not got.ok or not got.json()["n_windows"]:
            raise InputError(
                f"the first ECG of the archive cannot be scored ({got.text[:200]}); give another --archive"
            )
        return int(got.json()["n_windows"])

    def start(self, server: Server, connections: int, seconds: float, per_second: float = 0) -> subprocess.Popen[bytes]:
        """Load the endpoint for so long; the requests come out of finished(). per_second: of all; 0: no limit."""
        line = ["hey", "-z", f"{seconds:g}s", "-c", str(connections), "-t", "60", "-m", "POST", "-T", self._type]
        line += ["-q", f"{per_second / connections:.6f}"] if per_second else []
        line += ["-D", str(self._body), "-o", "csv", f"{server.url}/v1/estimates"]
        with self._told.open("w") as told:  # a file: hey tells all at its end, more than a pipe holds
            return subprocess.Popen(line, stdout=told, stderr=told)

    def finished(self, hey: subprocess.Popen[bytes]) -> list[Request]:
        """Wait for hey and read what it tells. A request that was under way at its end is in nobody's count."""
        hey.wait()
        told = self._told.read_text()
        if hey.returncode:
            raise JobError(f"hey failed: {told.strip().splitlines()[-1] if told.strip() else hey.returncode}")
        rows = csv.DictReader(io.StringIO(told))
        return [Request(float(r["offset"]), float(r["response-time"]), int(r["status-code"])) for r in rows]

    def run(self, server: Server, connections: int, seconds: float) -> list[Request]:
        """Load the endpoint for so long."""
        return self.finished(self.start(server, connections, seconds))


def _figures(found: list[Request]) -> dict[str, Any]:
    """Rate and latencies of the requests that were answered with estimates, and how many had which status.

    The rate is that of steady state: answers after the first fifth of the time, in which the connections are opened.
    """
    good = [r for r in found if r.status == 200]
    if len(good) < 2:
        raise JobError(f"the endpoint answered {dict(Counter(r.status for r in found))}, and no estimates")
    ends = np.array([r.began + r.took for r in good])
    steady = ends.max() / 5  # hey counts from its start
    return {
        "requests_per_s": float((ends > steady).sum() / (ends.max() - steady)),
        **_latencies([r.took for r in good]),
        "statuses": {str(k): v for k, v in sorted(Counter(r.status for r in found).items())},
    }


def _latencies(seconds: list[float]) -> dict[str, float]:
    return {f"p{q}_ms": float(np.percentile(seconds, q)) * 1000 for q in (50, 95, 99)}


def _soak(load: _Load, server: Server, minutes: float) -> dict[str, Any]:
    """Steady load: memory of all of the endpoint's processes, medians of its first and its last fifth."""
    before, memory = server.answered(), []
    hey = load.start(server, 32, 60 * minutes)
    while hey.poll() is None:
        memory.append(all_mb(server.process))
        try:
            hey.wait(timeout=1)
        except subprocess.TimeoutExpired:
            continue
    found = load.finished(hey)
    fifth = max(1, len(memory) // 5)
    told = _figures(found)
    return {
        **told,
        "memory_first_mb": statistics.median(memory[:fifth]),
        "memory_last_mb": statistics.median(memory[-fifth:]),
        # what hey cut off when its time was up was answered nevertheless: at most one a connection
        "answered_by_its_own_count": server.answered() - before,
    }


def _overload(load: _Load, server: Server, per_second: float, seconds: float) -> dict[str, Any]:
    """More requests than can be answered: how fast the others are refused."""
    found = load.finished(load.start(server, SENDERS, 2 * seconds, per_second))
    refused = [r.took for r in found if r.status in (429, 503)]
    told = {f"refused_{name}": value for name, value in _latencies(refused).items()} if refused else {}
    return {**_figures(found), **told}


def _killed(load: _Load, server: Server, seconds: float) -> dict[str, Any]:
    """The model's only process killed under load: the longest time between two answers, and what was refused."""
    hey = load.start(server, 8, 2 * seconds)
    time.sleep(KILL_AFTER * 2 * seconds)
    (model,) = [p for p in server.process.children(recursive=True) if "ServeReplica:anyecg:model-" in _name(p)]
    model.send_signal(signal.SIGKILL)
    found = load.finished(hey)
    ends = np.sort([r.began + r.took for r in found if r.status == 200])
    return {**_figures(found), "recovered_after_s": float(np.diff(ends).max())}


def _name(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it has ended meanwhile
        return ""


@contextmanager
def _served(bundle: str, compute: Compute, folder: Path) -> Iterator[Server]:
    """`anyecg serve` for the length of a block."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    log = folder / "serve.log"
    with log.open("w") as out:
        line = [sys.executable, "-m", "anyecg_ray", "serve", "--bundle", bundle, "--no-auth", "--port", str(port)]
        line += ["--limits.rate", "0", "--backend", compute.backend, "--precision", compute.precision]
        line += ["--threads", str(compute.threads), *(["--compiled"] if compute.compiled else [])]
        process = subprocess.Popen(line, stdout=out, stderr=out)
    server = Server(f"http://127.0.0.1:{port}", psutil.Process(process.pid))
    try:
        _wait(server, process, log)
        yield server
    finally:
        process.terminate()
        process.wait()


def _wait(server: Server, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until and process.poll() is None:
        try:
            if requests.get(f"{server.url}/readyz", timeout=5).ok:
                return
        except requests.RequestException:
            pass
        time.sleep(0.5)
    said = log.read_text().strip().splitlines()
    raise JobError(f"the endpoint did not start: {said[-1] if said else 'it says nothing'}")

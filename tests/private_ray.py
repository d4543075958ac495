"""A Ray cluster of a test's own: raylets as processes, with ports, a folder and a token that no other cluster has.

Nothing here calls `ray stop`, which would end every Ray of the machine: only the processes that were started are ended.
"""

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import ray
import requests
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID
from ray.job_submission import JobStatus, JobSubmissionClient

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent


@dataclass
class Cluster:
    """A head and the nodes that joined it."""

    folder: Path
    token: str = field(default_factory=lambda: secrets.token_hex(32))
    dashboard: int = field(default_factory=lambda: free_port())
    gcs: int = field(default_factory=lambda: free_port())
    nodes: list[subprocess.Popen] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.dashboard}"

    @property
    def env(self) -> dict[str, str]:
        """For a process that belongs to the cluster or talks to it."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "ANYECG_"))}
        own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token, "HOME": str(self.folder)}
        here = {"PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        return kept | own | here | {"PYTHONFAULTHANDLER": "1"}

    @property
    def client(self) -> JobSubmissionClient:
        return JobSubmissionClient(self.address, headers={"Authorization": f"Bearer {self.token}"})

    def head(self, *flags: str, **env: str) -> None:
        """Start the head and wait for its dashboard."""
        ports = [f"--port={self.gcs}", f"--dashboard-port={self.dashboard}", "--include-dashboard=true"]
        own = ["--head", f"--temp-dir={self.folder}/r", "--disable-usage-stats"]
        self._start(*own, f"--ray-client-server-port={free_port()}", *ports, *flags, **env)
        for _ in range(240):
            assert self.nodes[0].poll() is None, self.said()
            with contextlib.suppress(requests.RequestException, KeyError, TypeError):  # not all of it is up yet
                headers = {"Authorization": f"Bearer {self.token}"}
                if requests.get(f"{self.address}/api/jobs/", headers=headers, timeout=30).ok and self.alive():
                    return
            time.sleep(0.5)
        raise AssertionError(self.said())

    def worker(self, *flags: str) -> subprocess.Popen:
        """Start a node and wait until it has joined the head: two that start at once take each other's names."""
        before = len(self.alive())
        process = self._start(f"--address={ray.util.get_node_ip_address()}:{self.gcs}", *flags)
        for _ in range(300):
            if len(self.alive()) > before:
                return process
            time.sleep(0.2)
        raise AssertionError(self.said())

    def _start(self, *flags: str, **env: str) -> subprocess.Popen:
        # random ports: nodes of one machine would else share a range
        ports = ["--min-worker-port=0", "--max-worker-port=0", "--dashboard-agent-listen-port=0"]
        line = [BIN / "ray", "start", "--block", f"--metrics-export-port={free_port()}", *ports, *flags]
        with open(self.folder / f"node{len(self.nodes)}", "wb") as log:
            process = subprocess.Popen(line, env=self.env | env, stdout=log, stderr=log, start_new_session=True)
        self.nodes.append(process)
        return process

    def said(self) -> str:
        """What the nodes printed."""
        return "\n".join(log.read_text() for log in sorted(self.folder.glob("node*")))

    def alive(self) -> list[dict[str, Any]]:
        """Nodes that the head takes for alive, as Ray's dashboard lists them."""
        return [node for node in self.listed("nodes") if node["state"] == "ALIVE"]

    def listed(self, what: str) -> list[dict[str, Any]]:
        """What the dashboard's state API lists: nodes, actors, tasks."""
        headers = {"Authorization": f"Bearer {self.token}"}
        answer: dict[str, Any] = requests.get(f"{self.address}/api/v0/{what}", headers=headers, timeout=30).json()
        found: list[dict[str, Any]] = answer["data"]["result"]["result"]
        return found

    def await_status(self, job: str, status: JobStatus) -> None:
        for _ in range(600):
            with contextlib.suppress(RuntimeError):  # not submitted yet
                if self.client.get_job_status(job) is status:
                    return
            time.sleep(0.2)
        raise AssertionError(self.client.get_job_info(job))


@contextlib.contextmanager
def cluster() -> Iterator[Cluster]:
    """A cluster without nodes; those that are started end with the block."""
    made = Cluster(Path(tempfile.mkdtemp(prefix="ray")))  # pytest's folders are too long for the sockets in it
    try:
        yield made
    finally:
        for node in reversed(made.nodes):
            end(node, signal.SIGTERM)
        shutil.rmtree(made.folder, ignore_errors=True)


def end(node: subprocess.Popen, how: signal.Signals = signal.SIGKILL) -> None:
    """End a node with all of its processes: as a machine that is switched off, or with time to leave."""
    with contextlib.suppress(psutil.NoSuchProcess):
        processes = [*psutil.Process(node.pid).children(recursive=True), psutil.Process(node.pid)]
        if how is signal.SIGTERM:
            node.terminate()
            psutil.wait_procs(processes, timeout=10)
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
    node.wait(30)


def autoscaled(made: Cluster, types: dict[str, Any]) -> str:
    """A configuration of Ray's provider of pretended machines, which are raylets on this one; its path."""
    config = {
        "cluster_name": "pretended",
        "max_workers": 4,
        "idle_timeout_minutes": 0.1,
        "provider": {
            "type": "external",  # by its own name it wants a file that is not in Ray's wheel
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "launch_multiple": True,
            "disable_node_updaters": True,
            "head_node_id": FAKE_HEAD_NODE_ID,
            "gcs_address": f"{ray.util.get_node_ip_address()}:{made.gcs}",
        },
        "available_node_types": types,
        "head_node_type": "ray.head.default",
    }
    for stage in ("", "head_", "worker_"):
        config |= {f"{stage}setup_commands": []}
    config |= {"head_start_ray_commands": [], "worker_start_ray_commands": [], "initialization_commands": []}
    config |= {"file_mounts": {}, "cluster_synced_files": [], "auth": {}}
    path = made.folder / "autoscaling.json"
    path.write_text(json.dumps(config))
    return str(path)


AUTOSCALES = {
    "RAY_FAKE_CLUSTER": "1",
    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    "RAY_enable_autoscaler_v2": "1",  # as `ray up` does
    "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
    "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
}
"""Environment of a head that starts pretended machines."""


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]

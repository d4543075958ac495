"""A real endpoint for tests: Ray Serve on a free port of this machine, with a bundle of random weights."""

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import requests

from anyecg_ray import cluster, hosting, weights

INDICATORS = ["potassium_high", "calcium_value"]


class Endpoint(NamedTuple):
    """Where it is, and who may ask it."""

    url: str
    key: str | None

    def ask(self, method: str, path: str, **options: Any) -> requests.Response:
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        headers |= options.pop("headers", {})
        return requests.request(method, self.url + path, headers=headers, timeout=60, **options)

    def get(self, path: str, **options: Any) -> requests.Response:
        return self.ask("GET", path, **options)

    def estimate(self, query: str = "", **options: Any) -> requests.Response:
        return self.ask("POST", f"/v1/estimates{query}", **options)


class Upload:
    """A request whose body is half sent."""

    def __init__(self, url: str, path: str, body: bytes) -> None:
        host, _, port = url.removeprefix("http://").partition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=60)
        told = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Type: application/json\r\n"
        self._socket.sendall(f"{told}Content-Length: {len(body)}\r\n\r\n".encode() + body[:1000])
        self._rest = body[1000:]

    def finished(self) -> tuple[int, dict]:
        """(status, JSON) of the answer once the rest is sent."""
        self._socket.sendall(self._rest)
        with self._socket, self._socket.makefile("rb") as answer:
            head, _, body = answer.read().partition(b"\r\n\r\n")
        return int(head.split()[1]), json.loads(body)


def bundle(folder: Path, leads: list[str] | None = None, seed: int = 0, name: str = "bundle") -> str:
    made = weights.Init(out=str(folder / name), preset="tiny", indicators=INDICATORS, leads=leads or ["II"], seed=seed)
    weights.init(made)
    return made.out


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@contextmanager
def running(key: str | None = None, **settings: Any) -> Iterator[Endpoint]:
    """The endpoint for the length of a block."""
    port = free_port()
    with cluster.connected():
        hosting.start(hosting.Serve(port=port, **settings))
        try:
            yield Endpoint(f"http://127.0.0.1:{port}", key)
        finally:
            hosting.rayserve.shutdown()

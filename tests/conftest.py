"""Shared fixtures: where the real ECGs lie, and a Ray that several tests share."""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from planted import naming

if TYPE_CHECKING:
    from page_server import Server as Page
    from postgres_server import Server

ROOT = Path(__file__).parent.parent

# threads of PyTorch that wait give their core away: two files of tests run beside each other, and processes of Ray
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as every verb does


@pytest.fixture(scope="session", autouse=True)
def _no_log_names_a_patient() -> Iterator[None]:
    """The logs of every Ray that the tests start, searched at the end for the identifiers planted in their archives."""
    began = time.time()
    yield
    sessions = [p for p in Path("/tmp/ray").glob("session_2*") if p.stat().st_mtime >= began]
    assert not (sessions and naming(sessions))


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c_reaches_our_processes() -> None:
    """A shell that starts the tests in its background has them, and all that they start, ignore it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def data() -> Path:
    """Folder of openly licensed real ECGs: $ANYECG_TEST_DATA, by default ../shared/data beside the checkout."""
    folder = Path(os.environ.get("ANYECG_TEST_DATA", ROOT.parent / "shared" / "data"))
    if folder.is_dir():
        return folder.resolve()
    message = f"no test data at {folder}: set ANYECG_TEST_DATA"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="session")
def golden(data: Path) -> Path:
    """Folder of golden arrays that preprocessing and network must reproduce: beside the data."""
    return data.parent / "golden"


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """A real S3 protocol over HTTP: moto's server, in a thread of this process."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """URI of a fresh bucket; the AWS_* environment points at it. See faulty_s3.py for one that fails."""
    yield from _bucket(s3_endpoint, monkeypatch)


@pytest.fixture(scope="session")
def s3_process() -> Iterator[str]:
    """The same server as a process, for clients that keep Python's lock while they wait for an answer."""
    command = [sys.executable, "-c", _SERVE]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.kill()


_SERVE = """
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print("http://%s:%s" % server.get_host_and_port(), flush=True)
input()
"""


@pytest.fixture
def s3_of_its_own(s3_process: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """`s3` on the process."""
    yield from _bucket(s3_process, monkeypatch)


def _bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    from anyecg_ray import storage

    for name in [n for n in os.environ if n.startswith("AWS_")]:
        monkeypatch.delenv(name)
    settings = {"ENDPOINT_URL": endpoint, "ACCESS_KEY_ID": "k", "SECRET_ACCESS_KEY": "s", "REGION": "us-east-1"}
    for name, value in (settings | {"DEFAULT_REGION": "us-east-1", "EC2_METADATA_DISABLED": "true"}).items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    storage.forget_clients()
    bucket = f"test-{uuid.uuid4().hex[:12]}"
    storage.filesystem("s3://")[0].mkdir(bucket)
    yield f"s3://{bucket}"
    storage.forget_clients()


@pytest.fixture(scope="module")
def on_ray() -> Iterator[None]:
    """One Ray for a module's tests: starting it takes longer than most of them."""
    from anyecg_ray import cluster

    with cluster.connected():
        yield


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    """One Chromium for a module's tests. Not for longer: while Playwright runs, this thread has an event loop."""
    from browser import chromium

    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def page_server() -> "Iterator[Page]":
    """The endpoint's own app with given outputs of the network, for a module's tests of the page."""
    from page_server import serving

    with serving() as found:
        yield found


@pytest.fixture
def page(browser: object, page_server: "Page") -> Iterator[object]:
    """The page, opened on a server that is not busy and has been asked nothing."""
    from browser import visiting

    page_server.busy = False
    page_server.asked.clear()
    with visiting(browser, page_server.url) as found:
        found.goto(page_server.url)
        yield found


@pytest.fixture(scope="session")
def postgres() -> "Iterator[Server]":
    """A PostgreSQL; calling it with a name makes a database and gives its URI."""
    from postgres_server import Server

    server = Server()
    yield server
    server.close()

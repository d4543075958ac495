"""A proxy before an S3 server that fails on demand: 503s that pass or stay, slow answers, dropped connections.

with FaultyS3(endpoint) as proxy:
    proxy.fail("/a.dat", times=2)            # answered with 503 twice, then passed on
    proxy.fail("/b.dat", status=0)           # the connection is dropped, always
    proxy.slow("/c.dat", seconds=0.5)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
"""

import http.client
import threading
import time
from collections import Counter
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

CODES = {403: "AccessDenied", 404: "NoSuchKey", 500: "InternalError", 503: "SlowDown"}


@dataclass
class Fault:
    part: str
    method: str
    status: int
    times: float
    seconds: float


class FaultyS3:
    """Passes requests on to the server at `endpoint`; `requests` lists "METHOD path?query" of all that came."""

    def __init__(self, endpoint: str) -> None:
        self.requests: list[str] = []
        self.sent: Counter[str] = Counter()  # bytes by path
        self.faults: list[Fault] = []
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self, urlsplit(endpoint).netloc))
        self._server.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def fail(self, part: str = "", status: int = 503, times: float = float("inf"), method: str = "") -> None:
        """Answer `status` (0: drop the connection) to requests whose path and query hold `part`."""
        self.faults.append(Fault(part, method, status, times, 0.0))

    def slow(self, part: str, seconds: float, times: float = float("inf")) -> None:
        self.faults.append(Fault(part, "", 200, times, seconds))

    def fault(self, method: str, path: str) -> Fault | None:
        """The fault that this request meets; counts it."""
        with self._lock:
            self.requests.append(f"{method} {path}")
            for fault in self.faults:
                if fault.times > 0 and fault.part in path and fault.method in ("", method):
                    fault.times -= 1
                    return fault
        return None

    def __enter__(self) -> "FaultyS3":
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def _handler(proxy: FaultyS3, upstream: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_request(self) -> None:
            body = self.body()
            fault = proxy.fault(self.command, self.path)
            if fault is not None:
                time.sleep(fault.seconds)
            if fault is None or fault.status == 200:
                self.forward(body)
            elif fault.status == 0:
                self.close_connection = True
            else:
                code = CODES.get(fault.status, "Fault")
                told = f"<Error><Code>{code}</Code><Message>injected</Message></Error>".encode()
                self.answer(fault.status, [("Content-Type", "application/xml")], told)

        def body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def forward(self, body: bytes) -> None:
            connection = http.client.HTTPConnection(upstream, timeout=30)
            ours = ("transfer-encoding", "content-length")
            headers = {name: value for name, value in self.headers.items() if name.lower() not in ours}
            try:
                connection.request(self.command, self.path, body, headers | {"Content-Length": str(len(body))})
                response = connection.getresponse()
                self.answer(response.status, response.getheaders(), response.read())
            finally:
                connection.close()

        def answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
            self.send_response(status)
            length = str(len(body))
            for name, value in headers:
                if name.lower() == "content-length":
                    length = value  # of a HEAD, whose body is empty
                elif name.lower() not in ("transfer-encoding", "connection", "date", "server"):
                    self.send_header(name, value)
            self.send_header("Content-Length", length)
            self.end_headers()
            if self.command != "HEAD":
                proxy.sent[urlsplit(self.path).path] += len(body)
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_request

    return Handler

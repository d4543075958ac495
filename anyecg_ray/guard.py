"""Around every request: its key, its rate and its place are checked before its body is read, and it is logged after.

A plain ASGI layer around the app, so that no route can be left out. The log has one line a request: its id, method,
route as the code names it, status, problem's code, key's name and milliseconds. Never the path as it came, a
query, a header or a body: any of them may name a patient.
"""

import json
import logging
import time
import uuid
from dataclasses import dataclass, field
from ipaddress import ip_address

import anyio
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from anyecg_ray.http_problems import MEDIA_TYPE, Problem, of_any
from anyecg_ray.keys import Gate
from anyecg_ray.limits import Admission, Rates
from anyecg_ray.request_metrics import Counts

log = logging.getLogger("anyecg.requests")
"""Not Serve's logger, which puts the client's x-request-id before every line. It writes to the worker's .err file."""

OPEN = ("/", "/docs", "/openapi.json", "/healthz", "/readyz", "/favicon.ico")
"""Paths that need no key, besides those below /static: nothing there is about a patient or a key."""

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]", "::1")

SECURITY = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
    (
        b"content-security-policy",
        b"default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; object-src 'none'; "
        b"base-uri 'none'; frame-ancestors 'none'; form-action 'self'",
    ),
)
"""Headers of every answer: no content from elsewhere, no framing, no guessing of types, no caching."""


@dataclass
class Guard:
    """The layer. `gate` is None where the server runs without keys, for its own machine alone."""

    app: ASGIApp
    gate: Gate | None
    admission: Admission
    rates: Rates
    counts: Counts
    _refreshing: bool = field(default=False, init=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; whatever goes wrong, the answer is a problem and no exception leaves."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = _Request(_as_get(scope), scope["method"], uuid.uuid4().hex[:16])
        started = time.perf_counter()
        try:
            await self._answer(request, receive, request.watched(send))
        except Problem as problem:
            await self._send_problem(request, problem, receive, send)
        except Exception as error:
            _log_defect(request, error)
            await self._send_problem(request, of_any(error), receive, send)
        finally:
            seconds = time.perf_counter() - started
            self.counts.request(request.route(), request.method, request.status, request.code, seconds)
            log.info(request.line(seconds))

    async def _answer(self, request: "_Request", receive: Receive, send: Send) -> None:
        path = request.scope["path"]
        if self.gate is None:
            _check_loopback(request.scope, request.headers)
        elif path not in OPEN and not path.startswith("/static/"):
            await self._fresh(self.gate)
            request.key = self.gate.admit(_secret(request.headers))
        request.scope.setdefault("state", {}).update(id=request.id, key=request.key, request=request)
        if request.method != "POST":
            await self.app(request.scope, receive, send)
            return
        self.rates.take(request.key)
        with self.admission.request():
            await self.app(request.scope, receive, send)

    async def _fresh(self, gate: Gate) -> None:
        """Read the keys again where that is due; other requests do not wait."""
        if not self._refreshing and gate.stale():
            self._refreshing = True
            try:
                await anyio.to_thread.run_sync(gate.refresh)
            finally:
                self._refreshing = False

    async def _send_problem(self, request: "_Request", problem: Problem, receive: Receive, send: Send) -> None:
        request.code = problem.code
        if request.status:  # the answer had begun: all that is left is to end it
            return
        await respond(problem, request.id)(request.scope, receive, request.watched(send))


@dataclass
class _Request:
    """One request, and what is remembered of it."""

    scope: Scope
    method: str
    id: str
    key: str = "-"
    code: str = ""
    status: int = 0

    @property
    def headers(self) -> Headers:
        return Headers(scope=self.scope)

    def route(self) -> str:
        """The route's path as the code has it; "-" for a path that matches none, so that it is kept nowhere."""
        return getattr(self.scope.get("route"), "path", None) or ("/static" if "static" in self.scope else "-")

    def watched(self, send: Send) -> Send:
        """`send` that remembers the status, adds the headers SECURITY, and leaves out the body of an answer to HEAD."""

        async def watching(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.status = message["status"]
                present = {name.lower() for name, _ in message["headers"]}
                extra = [(n, v) for n, v in SECURITY if n not in present]
                message = {**message, "headers": [*message["headers"], *extra]}
            elif self.method == "HEAD":
                message = {**message, "body": b""}
            await send(message)

        return watching

    def line(self, seconds: float) -> str:
        told = {"id": self.id, "method": self.method, "route": self.route(), "status": self.status}
        told |= {"code": self.code, "key": self.key, "ms": round(1000 * seconds, 1)}
        return json.dumps(told)


def _as_get(scope: Scope) -> Scope:
    """HEAD asks for what GET would answer, without the body: no route needs to know of it."""
    return {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope


def write_log() -> None:
    """Let the log's lines go to stderr, as they are."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.handlers, log.propagate = [handler], False
    log.setLevel(logging.INFO)


def respond(problem: Problem, request_id: str) -> JSONResponse:
    """The problem as an answer."""
    return JSONResponse(problem.as_json(request_id), problem.status, problem.headers, media_type=MEDIA_TYPE)


def _secret(headers: Headers) -> str | None:
    """The key of a request: `Authorization: Bearer KEY`, or `X-API-Key: KEY`."""
    scheme, _, secret = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and secret.strip():
        return secret.strip()
    return headers.get("x-api-key") or None


def _check_loopback(scope: Scope, headers: Headers) -> None:
    """Without keys only this machine is served, and only under a loopback name: against DNS rebinding by a web page.

    Raises Problem (403).
    """
    host = (scope.get("client") or ("", 0))[0]
    name = headers.get("host", "localhost").rsplit(":", 1)[0] if not headers.get("host", "").endswith("]") else "[::1]"
    try:
        local = ip_address(host).is_loopback
    except ValueError:
        local = host in LOOPBACK_NAMES
    if not local or name.lower() not in LOOPBACK_NAMES:
        detail = "a server without API keys answers its own machine only"
        raise Problem(403, "not_local", detail, "start it with keys (anyecg keys add)", "Host")


def _log_defect(request: _Request, error: Exception) -> None:
    """Where it happened and of what kind, without the error's text, which may quote the request."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else "?"
    log.error(json.dumps({"id": request.id, "defect": type(error).__name__, "at": where}))

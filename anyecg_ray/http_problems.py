"""What the endpoint answers where it cannot answer: RFC 9457 problem details, always with a code and a mend.

A problem tells its reader what to change. It never carries a traceback, and what it quotes of the request goes to the
one who sent it and nowhere else: only its code is logged.
"""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.exceptions import HTTPException

from anyecg_ray.header import RecordError

MEDIA_TYPE = "application/problem+json"

LONGEST = 300
"""Characters of a detail: a request cannot make the answer long."""

MENDS = {
    "unreadable": "send the .hea and its signal files as they are in the record",
    "missing_signal": "send every signal file that the header names, under the name that it has there",
    "truncated": "send the whole signal file, or a header with its true length",
    "missing_lead": "send the lead that the model reads (GET /v1/models), or two limb leads in volts",
    "too_short": "send at least one window, which GET /v1/models tells: usually ten seconds",
    "sampling_rate": "send 80 to 20000 Hz, and the true rate of the samples",
}
"""By status of a record: what to do about an input that cannot become an estimate."""


class ProblemDetails(BaseModel):
    """A problem as it is sent."""

    model_config = ConfigDict(title="Problem", extra="forbid")

    type: str
    """urn:anyecg:problem:CODE."""
    title: str
    """The status in words."""
    status: int
    """The HTTP status, again."""
    detail: str
    """What is wrong with this very request."""
    code: str
    """Stable; for programs."""
    field: str | None = None
    """Where in the request it is."""
    mend: str
    """What to do about it."""
    instance: str | None = None
    """The request, as the server's log names it."""


class Problem(Exception):
    """A request that is not answered, and why."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        mend: str,
        field: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(code)  # not the detail: an exception may end up in a log
        self.status, self.code, self.mend, self.field = status, code, mend, field
        self.detail = detail if len(detail) <= LONGEST else detail[: LONGEST - 1] + "…"
        self.headers = dict(headers or {})

    def as_json(self, instance: str | None = None) -> dict[str, Any]:
        """The problem as JSON has it."""
        found = ProblemDetails(
            type=f"urn:anyecg:problem:{self.code}",
            title=HTTPStatus(self.status).phrase,
            status=self.status,
            detail=self.detail,
            code=self.code,
            field=self.field,
            mend=self.mend,
            instance=instance,
        )
        return found.model_dump(exclude_none=True)


def of_record(error: RecordError, field: str | None = None) -> Problem:
    """A record that cannot be read, or that no model can read."""
    code = str(error.status)
    return Problem(422, code, error.detail or code, MENDS.get(code, "send another recording"), field)


def of_validation(error: ValidationError) -> Problem:
    """The first thing that pydantic found."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    field = ".".join(str(part) for part in first["loc"]) or None
    what = first["type"]
    mends = {
        "extra_forbidden": "leave this field out; GET /openapi.json has those that there are",
        "missing": "add this field",
        "finite_number": "send finite numbers, and null for a sample that is missing",
    }
    code = {"extra_forbidden": "unknown_field", "missing": "missing_field"}.get(what, "invalid_field")
    message = first["msg"].removeprefix("Value error, ")
    return Problem(422, code, message, mends.get(what, "send what GET /openapi.json says for this field"), field)


def busy(detail: str, seconds: int = 1) -> Problem:
    """More work than the server takes on; nothing of the request was done."""
    mend = f"send it again after {seconds} s"
    return Problem(503, "overloaded", detail, mend, headers={"Retry-After": str(seconds)})


def of_any(error: Exception) -> Problem:
    """Whatever a route raised. What nobody foresaw is told without its text, which may quote the request."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"][1:]) or None
        return Problem(422, "invalid_parameter", first["msg"], "GET /openapi.json tells what it may be", field)
    if isinstance(error, HTTPException) and error.status_code == 405:
        mend = "GET /openapi.json lists the paths and their methods"
        return Problem(405, "method_not_allowed", "this path has no such method", mend, headers=error.headers)
    if isinstance(error, HTTPException) and error.status_code < 500:
        code = "not_found" if error.status_code == 404 else "refused"
        mend = "GET /openapi.json lists the paths that there are"
        return Problem(error.status_code, code, HTTPStatus(error.status_code).phrase, mend, headers=error.headers)
    return Problem(500, "internal", "the server failed; this is a defect of ours", "send it again, later")

"""openapi.json: the forms of a request's body, and the problems that every route may answer with.

The bodies are read by request_body.py, not by FastAPI, which would read any number of bytes on the event loop; so they
are described here.
"""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from anyecg_ray.http_problems import MEDIA_TYPE, ProblemDetails
from anyecg_ray.messages import Batch, Signals, Stored

ABOUT = (
    "Estimates of laboratory indicators from ECGs. **An estimate is a research output: it is not a measurement, not a "
    "diagnosis, and not a medical device.** Send the API key as `Authorization: Bearer KEY`."
)

REF = "#/components/schemas/{model}"

STATUSES = {
    400: "The body is not JSON, or not a form",
    401: "No API key, or a wrong one",
    403: "The key was revoked, or the record lies where this server does not read",
    404: "No such path, model or record",
    408: "The body took too long",
    413: "Larger or longer than this server reads",
    415: "A Content-Type or Content-Encoding that is not read",
    422: "An ECG that cannot be read, or a field that is wrong",
    429: "More requests than the key may send; see Retry-After",
    500: "A defect of the server",
    502: "The storage of the records refuses this server",
    503: "More work than the server takes on, or a server that is ending; see Retry-After",
}


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    content = {MEDIA_TYPE: {"schema": {"$ref": REF.format(model="Problem")}}}
    return {status: {"description": STATUSES[status], "content": content} for status in statuses}


PROBLEMS = _problems(401, 403, 422, 500, 503)
"""Of every route that needs a key."""

OF_ESTIMATES = _problems(400, 404, 408, 413, 415, 429, 502)
"""Of those that read an ECG, besides."""

NO_MODEL = _problems(404)

OPEN_TO_ALL: dict[str, Any] = {"security": []}
"""For routes that need no key."""

_UPLOAD = {
    "type": "object",
    "properties": {
        "file": {
            "type": "array",
            "items": {"type": "string", "format": "binary"},
            "description": "A WFDB header (.hea) and its signal files; or one .csv: a line of lead names, then a line "
            "a sample. The names of the parts do not matter, those of the files do.",
        },
        "fs": {"type": "number", "description": "With a CSV: samples a second."},
        "units": {"type": "string", "default": "mV", "description": "With a CSV: V, mV, uV or nV."},
    },
    "required": ["file"],
}


def _body(content: dict[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": content}}


ONE = _body(
    {
        "application/json": {"schema": {"anyOf": [{"$ref": REF.format(model=m)} for m in ("Signals", "Stored")]}},
        "multipart/form-data": {"schema": _UPLOAD},
    }
)
SEVERAL = _body({"application/json": {"schema": {"$ref": REF.format(model="Batch")}}})


def openapi(app: FastAPI) -> dict[str, Any]:
    """The app's openapi.json, made once."""
    if app.openapi_schema is None:
        made = get_openapi(title=app.title, version=app.version, description=ABOUT, routes=app.routes)
        _, given = models_json_schema([(m, "validation") for m in (Batch, Signals, Stored)], ref_template=REF)
        components = made.setdefault("components", {})
        components.setdefault("schemas", {}).update({**given["$defs"], "Problem": ProblemDetails.model_json_schema()})
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        made["security"] = [{"key": []}]
        app.openapi_schema = made
    return app.openapi_schema

"""Reading a request's body, JSON or multipart: one ECG, or a batch of them.

A body is read up to its limit, held while the request is at work, and parsed away from the event loop.
"""

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import from_json
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from anyecg_ray import remote
from anyecg_ray.http_problems import Problem, of_validation
from anyecg_ray.limits import Admission, Limits, in_time
from anyecg_ray.messages import Signals, Stored
from anyecg_ray.request_ecg import Ecg, from_csv, from_files, from_signals

FILES = 64
"""Most parts of an upload: a record has one or two files, a multi-segment one some dozens."""

T = TypeVar("T")


@dataclass(frozen=True)
class BodyReader:
    """Reads ECGs from the bodies of requests, within the limits."""

    limits: Limits
    prefixes: Sequence[str]
    """Below which a request may name a record for the server to read."""
    admission: Admission
    pool: Executor

    async def run(self, work: Callable[[], T]) -> T:
        """Work that takes processor time, away from the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self.pool, work)

    @asynccontextmanager
    async def ecg(self, request: Request) -> AsyncIterator[Ecg]:
        """The request's ECG. Its body is held while the block runs, which must end within `limits.timeout`.

        Raises Problem.
        """
        kind = _kind(request, ("application/json", "multipart/form-data"))
        async with self._body(request) as body, in_time(self.limits.timeout):
            if kind == "application/json":
                yield await self.read(await self.run(partial(_json, body)))
            else:
                yield await self._upload(request, body)

    @asynccontextmanager
    async def several(self, request: Request) -> AsyncIterator[list[Any]]:
        """The ECGs of a batch, each still to be read. Raises Problem."""
        _kind(request, ("application/json",))
        async with self._body(request) as body:
            async with in_time(self.limits.timeout):
                given = await self.run(partial(_json, body))
            if set(given) - {"ecgs"}:
                field = sorted(set(given) - {"ecgs"})[0]
                raise Problem(422, "unknown_field", "a batch has the field ecgs alone", "leave this field out", field)
            ecgs = given.get("ecgs")
            if not isinstance(ecgs, list) or not ecgs:
                raise Problem(422, "missing_field", "there are no ECGs", "send a list of one ECG or more", "ecgs")
            if len(ecgs) > self.limits.ecgs:
                detail = f"{len(ecgs)} ECGs; this server takes {self.limits.ecgs} at once"
                raise Problem(413, "too_many_ecgs", detail, "send several batches", "ecgs")
            yield ecgs

    async def read(self, given: Any) -> Ecg:
        """An ECG as JSON: numbers, or where a record lies. Raises Problem."""
        try:
            if isinstance(given, dict) and "record" in given:
                stored = Stored.model_validate(given)
                return await asyncio.to_thread(remote.read, stored.record, self.prefixes, self.limits)
            return await self.run(lambda: from_signals(Signals.model_validate(given), self.limits))
        except ValidationError as error:
            raise of_validation(error) from None

    @asynccontextmanager
    async def _body(self, request: Request) -> AsyncIterator[bytes]:
        if request.headers.get("content-encoding", "identity").strip().lower() not in ("identity", ""):
            mend = "send the body as it is, without Content-Encoding"
            raise Problem(415, "content_encoding", "compressed bodies are not read", mend, "Content-Encoding")
        declared = request.headers.get("content-length", "")
        length = int(declared) if declared.isdecimal() else None
        async with self.admission.body(_body_chunks(request, self.limits.timeout), length) as body:
            if not body:
                raise Problem(400, "no_body", "the request has no body", "send an ECG", None)
            yield body

    async def _upload(self, request: Request, body: bytes) -> Ecg:
        fields, files = await _parts(request, body)
        unknown = sorted(fields.keys() - {"fs", "units"})
        if unknown:
            mend = "send fs and units as fields, and files with their file names"
            raise Problem(
                422, "unknown_field", "the form has a field that is none of its fields", mend, unknown[0][:64]
            )
        if not files:
            mend = "send a .hea with its signal files, or one .csv, each with its file name"
            raise Problem(422, "missing_field", "the form holds no file", mend, "file")
        if any(name.lower().endswith(".csv") for name in files):
            if len(files) > 1:
                raise Problem(422, "several_records", "a CSV came with other files", "send it alone", "file")
            (raw,) = files.values()
            fs = _number(fields["fs"]) if "fs" in fields else None
            return await self.run(partial(from_csv, raw, fs, fields.get("units", "mV"), self.limits))
        if fields:
            field = sorted(fields)[0]
            detail = "a WFDB header tells rate and units itself"
            raise Problem(422, "unknown_field", detail, "leave this field out", field)
        return await self.run(partial(from_files, files, self.limits))


class _InMemory(MultiPartParser):
    """Writes no part of an upload to disk, where it would outlast a crash. The body's limit bounds the memory."""

    spool_max_size = 1 << 40


async def _parts(request: Request, body: bytes) -> tuple[dict[str, str], dict[str, bytes]]:
    """Fields, and files by the last part of their names. Raises Problem."""

    async def whole() -> AsyncGenerator[bytes, None]:
        yield body

    try:
        form = await _InMemory(request.headers, whole(), max_files=FILES, max_fields=8, max_part_size=1024).parse()
    except (MultiPartException, ValueError, KeyError) as error:
        detail = error.message if isinstance(error, MultiPartException) else "the form cannot be taken apart"
        mend = "send multipart/form-data with a boundary, as curl -F and browsers do"
        raise Problem(400, "not_multipart", detail, mend) from None
    fields, files = dict[str, str](), dict[str, bytes]()
    for name, part in form.multi_items():
        key = _base(part.filename or "") if isinstance(part, UploadFile) else name
        if key in (files if isinstance(part, UploadFile) else fields):
            raise Problem(422, "part_twice", "a field or a file name came twice", "send each once", "file")
        if isinstance(part, UploadFile):
            files[key] = await part.read()
        else:
            fields[key] = part
    await form.close()
    return fields, files


def _base(name: str) -> str:
    """What follows the last slash of a file name: browsers send the folders above it too. Never used as a path."""
    return name.replace("\\", "/").rpartition("/")[2]


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise Problem(422, "invalid_field", "fs is not a positive number", "send samples a second, such as 500", "fs")
    return number


def _json(body: bytes) -> dict[str, Any]:
    try:
        given = from_json(body)
    except ValueError as error:
        mend = "send one JSON object in UTF-8"
        raise Problem(400, "not_json", f"the body is not JSON: {error}", mend) from None
    if not isinstance(given, dict):
        raise Problem(422, "not_an_object", "the body is not a JSON object", "send one JSON object")
    return given


def _kind(request: Request, accepted: Sequence[str]) -> str:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in accepted:
        detail = "the body's Content-Type is missing, or none that is read here"
        raise Problem(415, "content_type", detail, f"send {' or '.join(accepted)}", "Content-Type")
    return kind


async def _body_chunks(request: Request, seconds: float) -> AsyncIterator[bytes]:
    """The body's chunks. Raises Problem (408) where they take longer, (400) where they end early."""
    chunks = request.stream()
    until = asyncio.get_running_loop().time() + seconds
    try:
        while True:
            async with asyncio.timeout_at(until):
                chunk = await anext(chunks, None)
            if chunk is None:
                return
            yield chunk
    except TimeoutError:
        raise Problem(408, "slow_body", f"the body took longer than {seconds:g} s", "send it faster") from None
    except ClientDisconnect:
        raise Problem(400, "cut_body", "the body ended before its end", "send it again") from None

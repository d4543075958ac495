"""Ask an endpoint for estimates: `anyecg estimate RECORD --url …`, and `estimate(…)` for notebooks.

What is sent is the record as it lies on disk, header and signal files, so that the endpoint decodes it as the back-fill
does. The API key comes from ANYECG_API_KEY, never from a flag, which other users of the machine could read.
"""

import json
import math
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import requests
from pydantic import Field
from pydantic_settings import CliPositionalArg
from requests.exceptions import InvalidSchema, InvalidURL, MissingSchema

from anyecg_ray.config import InputError, JobError, Location, Settings
from anyecg_ray.header import NO_FILE, RecordError, parse_header

VARIABLE = "ANYECG_API_KEY"

LONGEST_WAIT = 30.0
"""Most seconds to wait, whatever a server asks for with Retry-After."""


class ProblemError(InputError):
    """The endpoint's problem: what is wrong with the request, and the mend."""

    def __init__(self, problem: dict[str, Any]) -> None:
        super().__init__(f"{problem.get('field') or 'request'}: {problem.get('detail')}; {problem.get('mend')}")
        self.problem = problem

    @property
    def code(self) -> str:
        """The problem's code, for programs."""
        return str(self.problem.get("code"))


class Estimate(Settings):
    """Ask an endpoint for the estimates of one record and print them."""

    record: CliPositionalArg[Location]
    """A WFDB record on this machine, with or without .hea; a .csv (with --fs); or s3://… for the server to read."""

    url: str = "http://127.0.0.1:8000"
    """Where `anyecg serve` answers."""

    model: str | None = None
    """Name of the model, or name@version; by default the server's first."""

    granularity: Literal["span", "window"] = "span"
    """span: one estimate from all windows. window: each ten seconds by itself."""

    fs: float | None = Field(None, gt=0)
    """Of a CSV: samples a second."""

    units: str = "mV"
    """Of a CSV: V, mV, uV or nV."""

    as_json: bool = Field(False, alias="json")
    """Print the answer as JSON."""


def ask(settings: Estimate) -> None:
    """Print what the endpoint estimates. Raises InputError, JobError."""
    told = settings.model_dump(exclude={"record", "as_json"})
    answer = estimate(settings.record, **told)
    print(json.dumps(answer, indent=2) if settings.as_json else table(answer))


def estimate(
    record: str | Path | np.ndarray | Sequence[Sequence[float | None]],
    url: str = "http://127.0.0.1:8000",
    *,
    fs: float | None = None,
    leads: Sequence[str] | None = None,
    units: str = "mV",
    model: str | None = None,
    granularity: Literal["span", "window"] = "span",
    strip: bool = False,
    key: str | None = None,
    timeout: float = 120.0,
    attempts: int = 4,
) -> dict[str, Any]:
    """The endpoint's answer for one ECG, as the JSON that it is; docs/serving.md tells its fields.

    record: a WFDB record's path (.hea or none), a .csv (with fs), s3://… for the server to read; or numbers, leads ×
    samples in `units`, NaN where a sample is missing, with fs and leads. key: by default that in ANYECG_API_KEY.
    A server that is busy is asked again, `attempts` times in all. Raises ProblemError for what is wrong with the
    request, JobError where no answer can be had.
    """
    body = _body(record, fs if fs is None else _rate(fs), leads, units)
    query = {"granularity": granularity, **({"model": model} if model else {}), **({"strip": "true"} if strip else {})}
    headers = _authorization(key or os.environ.get(VARIABLE))
    where = f"{url.rstrip('/')}/v1/estimates"
    for attempt in range(attempts):
        try:
            got = requests.post(where, params=query, headers=headers, timeout=timeout, **body)
        except (MissingSchema, InvalidSchema, InvalidURL):
            raise InputError(f"url: {url!r} is no address; give http://HOST:PORT") from None
        except requests.RequestException as error:
            raise JobError(f"{url}: no answer ({type(error).__name__}); is `anyecg serve` running there?") from None
        if got.status_code in (429, 503) and attempt < attempts - 1:
            wait = got.headers.get("Retry-After", "")
            time.sleep(min(LONGEST_WAIT, int(wait) if wait.isdecimal() else 1))  # a proxy may give a date
            continue
        return _answer(got, url)
    raise JobError(f"{url}: attempts must be 1 or more")


def _answer(got: requests.Response, url: str) -> dict[str, Any]:
    try:
        told: dict[str, Any] = got.json()
    except ValueError:
        raise JobError(f"{url}: answered {got.status_code} and no JSON; is it an anyecg endpoint?") from None
    if got.status_code == 200:
        return told
    if got.status_code < 500 and "detail" in told:
        raise ProblemError(told)
    raise JobError(f"{url}: {got.status_code}, {told.get('detail', 'no reason given')}")


def _body(record: Any, fs: float | None, leads: Sequence[str] | None, units: str) -> dict[str, Any]:
    """What requests sends, by what was given."""
    if not isinstance(record, (str, Path)):
        if fs is None or leads is None:
            raise InputError("fs and leads: are missing; numbers alone do not tell them")
        return {"json": {"signals": _rows(record), "leads": list(leads), "fs": fs, "units": units}}
    path = Path(record).expanduser()
    remote = "://" in str(record)
    if path.suffix.lower() == ".csv" and not remote:
        if fs is None:
            raise InputError(f"{path}: a CSV does not tell its sampling rate; give --fs")
        return {"files": [("file", (path.name, _read(path)))], "data": {"fs": repr(fs), "units": units}}
    if fs is not None or units != "mV":
        raise InputError(f"fs and units: {record} is read as a WFDB record, whose header tells them; leave them out")
    if remote:
        return {"json": {"record": str(record)}}
    return {"files": [("file", (file.name, _read(file))) for file in _files(path)]}


def _rate(fs: Any) -> float:
    """fs as JSON can carry it: of whatever type of number it was. Raises InputError."""
    try:
        rate = float(fs)
    except (TypeError, ValueError):
        rate = math.nan
    if not math.isfinite(rate):
        raise InputError(f"fs: {fs!r} is no sampling rate; give samples a second, such as 500")
    return rate


def _rows(record: Any) -> list[list[float | None]]:
    """Numbers, leads × samples, as JSON can carry them. Raises InputError."""
    try:
        signals = np.atleast_2d(np.array(record, np.float64))
    except (TypeError, ValueError):
        raise InputError("record: is no table of numbers; give as many samples for each lead") from None
    if np.isinf(signals).any():
        raise InputError("record: a sample is infinite; give NaN where a sample is missing")
    return [[None if v != v else v for v in row] for row in signals.tolist()]


def _authorization(key: str | None) -> dict[str, str]:
    """The header that carries the key. Raises InputError, which does not show it."""
    if not key:
        return {}
    if not re.fullmatch(r"[!-~]+", key):
        mend = "give it as `anyecg keys add` printed it, without spaces or line ends"
        raise InputError(f"key: holds what no key holds ({VARIABLE}, where none was given); {mend}")
    return {"Authorization": f"Bearer {key}"}


def _files(path: Path) -> list[Path]:
    """The header and the files that it names, those of its segments too. Raises InputError."""
    header = path if path.suffix == ".hea" else path.with_name(path.name + ".hea")
    try:
        parsed = parse_header(_read(header))
        segments = [header.with_name(s.name + ".hea") for s in parsed.segments if s.name != NO_FILE]
        headers = [header, *dict.fromkeys(segments)]
        signals = [s.file for h in headers for s in parse_header(_read(h)).signals if s.file != NO_FILE]
    except RecordError as error:
        raise InputError(f"{header}: {error.detail}; give a WFDB record") from None
    return [*headers, *(header.with_name(name) for name in dict.fromkeys(signals))]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give a WFDB record or a .csv") from None


def table(answer: dict[str, Any]) -> str:
    """The answer for a terminal."""
    model, windows = answer["model"], answer["windows"]
    lines = [f"{model['name']} {model['version']}: {answer['status']}, {answer['n_windows']} of {len(windows)} windows"]
    if answer["status_detail"]:
        lines.append(answer["status_detail"])
    for e in answer["estimates"]:
        start = f"{e['window_start']:7.1f} s  " if "window_start" in e else ""
        lines.append(f"  {start}{e['indicator']:28} {_number(e)}")
    return "\n".join([*lines, answer["disclaimer"]])


def _number(e: dict[str, Any]) -> str:
    if e["value"] is not None:
        return f"{e['value']:.3g} ({e['lower']:.3g} to {e['upper']:.3g}) {e['unit'] or ''}".rstrip()
    if e["probability"] is None:
        return "–"
    flag = {True: "  at or above the threshold", False: "  below the threshold", None: ""}[e["abnormal"]]
    return f"{e['probability']:.3f}{'' if e['calibrated'] else ' (not calibrated)'}{flag}"

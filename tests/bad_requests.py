"""Requests that no endpoint should have been sent, each with the status and the code that it must be answered with."""

import gzip
import io
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import soundfile
from bad_records import beats

N = 5000
GOOD = {"signals": [[0.001 * v for v in beats(leads=1)[0].tolist()]], "leads": ["II"], "fs": 500}
JSON = {"Content-Type": "application/json"}
ENDS_OF_THE_CALENDAR = ["0001-01-01T00:00:00+01:00", "9999-12-31T23:00:00-02:00", "9999-12-30T00:00:01"]


class Bad(NamedTuple):
    """One request."""

    name: str
    status: int
    code: str
    options: dict[str, Any]
    query: str = ""


def header(n: int = N, fs: str = "500", file: str = "r.dat", leads: tuple[str, ...] = ("II",), fmt: str = "16") -> str:
    lines = [f"r {len(leads)} {fs} {n}", *(f"{file} {fmt} 1000/mV 16 0 0 0 0 {lead}" for lead in leads)]
    return "\n".join(lines) + "\n"


def upload(*files: tuple[str, str | bytes], **fields: str) -> dict[str, Any]:
    return {"files": [("file", file) for file in files], "data": fields}


def dat(samples: int = N) -> bytes:
    return np.resize(beats(leads=1)[0], samples).astype("<i2").tobytes()


def changed(**fields: Any) -> dict[str, Any]:
    return {"json": {**GOOD, **fields}}


def raw(body: bytes, **headers: str) -> dict[str, Any]:
    return {"data": body, "headers": {**JSON, **headers}}


def text(body: str) -> dict[str, Any]:
    return raw(body.encode())


def flac(samples: int) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, np.zeros((samples, 1), np.int16), 500, format="FLAC", subtype="PCM_16")
    return out.getvalue()


def all_of_them() -> list[Bad]:
    return [*_json(), *_signals(), *_content(), *_wfdb(), *_csv(), *_records(), *_parameters()]


def _json() -> Iterator[Bad]:
    yield Bad("no body", 400, "no_body", raw(b""))
    yield Bad("not JSON", 400, "not_json", raw(b"hello"))
    yield Bad("half of a JSON", 400, "not_json", raw(json.dumps(GOOD).encode()[:-10]))
    yield Bad("not UTF-8", 400, "not_json", raw(b'{"leads": ["\xff\xfe"]}'))
    yield Bad("NUL bytes", 400, "not_json", raw(bytes(1000)))
    yield Bad("ten thousand brackets", 400, "not_json", raw(b"[" * 10_000))
    yield Bad("a list", 422, "not_an_object", raw(b"[]"))
    yield Bad("a number", 422, "not_an_object", raw(b"5"))
    yield Bad("null", 422, "not_an_object", raw(b"null"))
    yield Bad("an empty object", 422, "missing_field", raw(b"{}"))
    yield Bad("no signals", 422, "missing_field", {"json": {"leads": ["II"], "fs": 500}})
    yield Bad("no leads", 422, "missing_field", {"json": {"signals": GOOD["signals"], "fs": 500}})
    yield Bad("no fs", 422, "missing_field", {"json": {"signals": GOOD["signals"], "leads": ["II"]}})
    yield Bad("a field too many", 422, "unknown_field", changed(patient="Doe"))
    yield Bad("signals and record", 422, "unknown_field", changed(record="s3://b/r"))


def _signals() -> Iterator[Bad]:
    yield Bad("NaN", 422, "invalid_field", text('{"signals": [[NaN]], "leads": ["II"], "fs": 500}'))
    yield Bad("Infinity", 422, "invalid_field", text('{"signals": [[Infinity]], "leads": ["II"], "fs": 500}'))
    yield Bad("1e999", 422, "invalid_field", text('{"signals": [[1e999]], "leads": ["II"], "fs": 500}'))
    many = "9" * 5000
    yield Bad("a sample of 5000 digits", 400, "not_json", text(f'{{"signals":[[{many}]],"leads":["I"],"fs":500}}'))
    yield Bad("an fs of 5000 digits", 400, "not_json", text(f'{{"signals":[[1]],"leads":["I"],"fs":{many}}}'))
    yield Bad("samples as strings", 422, "invalid_field", changed(signals=[["1.0"] * N]))
    yield Bad("samples as booleans", 422, "invalid_field", changed(signals=[[True] * N]))
    yield Bad("a flat list", 422, "invalid_field", changed(signals=GOOD["signals"][0]))
    yield Bad("one list too deep", 422, "invalid_field", changed(signals=[GOOD["signals"]]))
    yield Bad("no lead at all", 422, "invalid_field", changed(signals=[], leads=[]))
    yield Bad("a hundred leads", 422, "invalid_field", changed(signals=[[0.0]] * 100, leads=["II"] * 100))
    yield Bad("0 samples", 422, "too_short", changed(signals=[[]]))
    yield Bad("1 sample", 422, "too_short", changed(signals=[[0.1]]))
    yield Bad("a window but for a sample", 422, "too_short", changed(signals=[GOOD["signals"][0][:-1]]))
    yield Bad("more leads than signals", 422, "leads_differ", changed(leads=["I", "II"]))
    yield Bad("lengths differ", 422, "lengths_differ", changed(signals=[[0.0] * N, [0.0] * 9], leads=["I", "II"]))
    yield Bad("a lead twice", 422, "lead_twice", changed(signals=GOOD["signals"] * 2, leads=["II", "II"]))
    yield Bad(
        "a lead twice by another name", 422, "lead_twice", changed(signals=GOOD["signals"] * 2, leads=["II", "MLII"])
    )
    yield Bad("no lead that is read", 422, "missing_lead", changed(leads=["V1"]))
    yield Bad("a lead's name of 1000 letters", 422, "invalid_field", changed(leads=["I" * 1000]))
    yield Bad("a lead that is a number", 422, "invalid_field", changed(leads=[2]))
    yield Bad("units of a weight", 422, "unknown_units", changed(units="mg"))
    yield Bad("no units", 422, "unknown_units", changed(units=""))
    yield Bad("a rate of 0", 422, "invalid_field", changed(fs=0))
    yield Bad("a negative rate", 422, "invalid_field", changed(fs=-500))
    yield Bad("a rate as a string", 422, "invalid_field", changed(fs="500"))
    yield Bad("10^9 Hz", 422, "sampling_rate", changed(fs=1e9))
    yield Bad("50 Hz", 422, "sampling_rate", changed(fs=50))
    yield Bad("a rate near 0", 413, "too_long", changed(fs=1e-300))
    yield Bad("an hour", 413, "too_long", changed(fs=1.4))
    yield Bad("a start that is no time", 422, "invalid_field", changed(start_time="yesterday"))
    for start in ENDS_OF_THE_CALENDAR:
        yield Bad(f"a start at {start}", 422, "invalid_field", changed(start_time=start))


def _content() -> Iterator[Bad]:
    body = json.dumps(GOOD).encode()
    yield Bad("no Content-Type", 415, "content_type", {"data": body, "headers": {"Content-Type": ""}})
    yield Bad("text/plain", 415, "content_type", raw(body, **{"Content-Type": "text/plain"}))
    yield Bad("application/xml", 415, "content_type", raw(b"<a/>", **{"Content-Type": "application/xml"}))
    yield Bad("a form of fields", 415, "content_type", {"data": {"fs": "500"}})
    yield Bad("gzip", 415, "content_encoding", raw(gzip.compress(body), **{"Content-Encoding": "gzip"}))
    bomb = gzip.compress(bytes(10_000_000))
    yield Bad("a gzip bomb", 415, "content_encoding", raw(bomb, **{"Content-Encoding": "gzip"}))
    yield Bad("a gzip bomb that says nothing", 400, "not_json", raw(bomb))
    yield Bad("9 MB", 413, "too_large", raw(b" " * (9 << 20)))
    multipart = {"Content-Type": "multipart/form-data"}
    yield Bad("multipart without a boundary", 400, "not_multipart", raw(b"--x\r\n", **multipart))
    boundary = {"Content-Type": "multipart/form-data; boundary=x"}
    yield Bad("multipart that is none", 400, "not_multipart", raw(b"hello", **boundary))
    named = b"--x\r\nContent-Disposition: form-data\r\n\r\nhello\r\n--x--\r\n"
    yield Bad("a part without a name", 400, "not_multipart", raw(named, **boundary))
    yield Bad("a part of JSON", 422, "unknown_field", upload(("r.dat", dat()), ecg=json.dumps(GOOD)[:1000]))
    parts = {"files": [("file", (f"{i}.dat", b"x")) for i in range(100)]}
    yield Bad("a hundred files", 400, "not_multipart", parts)


def _wfdb() -> Iterator[Bad]:
    yield Bad("no header", 422, "no_header", upload(("r.dat", dat())))
    yield Bad("no signal file", 422, "missing_signal", upload(("r.hea", header())))
    yield Bad("another's signal file", 422, "missing_signal", upload(("r.hea", header()), ("x.dat", dat())))
    yield Bad("an empty header", 422, "unreadable", upload(("r.hea", b""), ("r.dat", dat())))
    yield Bad("a header of noise", 422, "unreadable", upload(("r.hea", bytes(range(256)) * 4), ("r.dat", dat())))
    yield Bad("a truncated signal file", 422, "truncated", upload(("r.hea", header()), ("r.dat", dat()[:5000])))
    yield Bad("an empty signal file", 422, "truncated", upload(("r.hea", header()), ("r.dat", b"")))
    for name in ("../../etc/passwd", "/etc/passwd", "a/../../b.dat", "..\\b.dat", "~root/b.dat", "file:///etc/passwd"):
        files = ("r.hea", header(file=name)), (name, dat())
        yield Bad(f"a header that names {name}", 422, "unreadable", upload(*files))
    yield Bad(
        "a header of 2 MB", 413, "header_too_large", upload(("r.hea", header() + "#" * (2 << 20)), ("r.dat", dat()))
    )
    day = header(n=86400 * 500)
    yield Bad("a header of 24 hours", 413, "too_long", upload(("r.hea", day), ("r.dat", dat())))
    yield Bad("a header of 10^9 Hz", 422, "unreadable", upload(("r.hea", header(fs="1e9")), ("r.dat", dat())))
    frames = header(fmt="16x100000")
    yield Bad("frames of 100,000", 413, "too_many_samples", upload(("r.hea", frames), ("r.dat", dat())))
    yield Bad("an unknown format", 422, "unreadable", upload(("r.hea", header(fmt="99")), ("r.dat", dat())))
    yield Bad("a chest lead alone", 422, "missing_lead", upload(("r.hea", header(leads=("V1",))), ("r.dat", dat())))
    two = ("r.hea", header()), ("q.hea", header().replace("r 1", "q 1")), ("r.dat", dat())
    yield Bad("two records", 422, "several_records", upload(*two))
    yield Bad("a file twice", 422, "part_twice", upload(("r.hea", header()), ("r.dat", dat()), ("x/r.dat", dat())))
    yield Bad("units beside a header", 422, "unknown_field", upload(("r.hea", header()), ("r.dat", dat()), units="mV"))
    long = flac(5_000_000)
    bomb = header(n=5_000_000, fmt="516")
    yield Bad("a FLAC bomb", 413, "too_long", upload(("r.hea", bomb), ("r.dat", long)))
    unknown = header(fmt="516").replace("500 5000", "500")
    yield Bad("a FLAC bomb of unknown length", 422, "no_length", upload(("r.hea", unknown), ("r.dat", long)))
    yield Bad("FLAC that is none", 422, "unreadable", upload(("r.hea", header(fmt="516")), ("r.dat", dat())))
    master = "r/2 1 500 10000\nr 5000\nr 5000\n"
    yield Bad("a record that is its own segment", 422, "unreadable", upload(("r.hea", master), ("r.dat", dat())))
    lost = "r/2 1 500 10000\na 5000\nb 5000\n"
    yield Bad("segments that did not come", 422, "missing_signal", upload(("r.hea", lost), ("r.dat", dat())))


def _csv() -> Iterator[Bad]:
    rows = "\n".join(f"{v:.3f}" for v in GOOD["signals"][0])
    yield Bad("a CSV without fs", 422, "missing_field", upload(("r.csv", "II\n" + rows)))
    for fs in ("x", "-1", "0", "nan", "inf", "1e999", ""):
        yield Bad(f"a CSV with fs {fs!r}", 422, "invalid_field", upload(("r.csv", "II\n" + rows), fs=fs))
    yield Bad("a CSV without names", 422, "no_lead_names", upload(("r.csv", rows), fs="500"))
    yield Bad("an empty CSV", 422, "not_csv", upload(("r.csv", ""), fs="500"))
    yield Bad("a CSV of words", 422, "not_csv", upload(("r.csv", "II\nhello\n"), fs="500"))
    yield Bad("a ragged CSV", 422, "not_csv", upload(("r.csv", "I,II\n1,2\n3\n"), fs="500"))
    yield Bad("a CSV with infinity", 422, "not_finite", upload(("r.csv", "II\n" + rows + "\ninf"), fs="500"))
    yield Bad("a picture as CSV", 422, "not_csv", upload(("r.csv", b"\x89PNG\r\n\x1a\n" + bytes(500)), fs="500"))
    yield Bad("a column of times alone", 422, "not_csv", upload(("r.csv", "time\n1\n2\n"), fs="500"))
    yield Bad("two CSVs", 422, "several_records", upload(("a.csv", "II\n1"), ("b.csv", "II\n1"), fs="500"))
    yield Bad("a CSV in furlongs", 422, "unknown_units", upload(("r.csv", "II\n" + rows), fs="500", units="furlong"))


def _records() -> Iterator[Bad]:
    outside = [
        "http://169.254.169.254/latest/meta-data/iam", "https://example.org/r", "s3://another-bucket/r", "ftp://h/r",
        "file:///etc/passwd", "/etc/passwd", "etc/passwd", "gs://b/r", "memory://r", "s3://user@bucket/r",
    ]  # fmt: skip
    for uri in outside:
        yield Bad(f"record {uri}", 403, "record_not_allowed", {"json": {"record": uri}})
    odd = ["PREFIX/../secret", "PREFIX/./r", "PREFIX//r", "PREFIX/%2e%2e/secret", "PREFIX/r?x=1", "PREFIX/*", "~/r",
           "PREFIX/r\x00", "PREFIX/..\\secret"]  # fmt: skip
    for uri in odd:
        yield Bad(f"record {uri!r}", 422, "not_a_location", {"json": {"record": uri}})
    yield Bad("record that links outside", 403, "record_not_allowed", {"json": {"record": "PREFIX/link"}})
    yield Bad("record that is not there", 404, "no_such_record", {"json": {"record": "PREFIX/nothing"}})
    yield Bad("record that is a folder", 404, "no_such_record", {"json": {"record": "PREFIX/folder"}})
    yield Bad(
        "record of a name that no file can have", 404, "no_such_record", {"json": {"record": f"PREFIX/{'a' * 300}"}}
    )
    yield Bad("record without a name", 422, "invalid_field", {"json": {"record": ""}})
    yield Bad("record that is a number", 422, "invalid_field", {"json": {"record": 5}})
    yield Bad("record and fs", 422, "unknown_field", {"json": {"record": "PREFIX/r", "fs": 500}})


def _parameters() -> Iterator[Bad]:
    yield Bad("an unknown model", 404, "no_such_model", changed(), "?model=gpt")
    yield Bad("an unknown granularity", 422, "invalid_parameter", changed(), "?granularity=beat")
    yield Bad("a strip that is no truth", 422, "invalid_parameter", changed(), "?strip=perhaps")
    yield Bad("an unknown parameter", 422, "unknown_parameter", changed(), "?granularty=window")

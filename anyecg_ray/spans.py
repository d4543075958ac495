"""From the headers of some records to the manifest's rows: one row per span, whatever a header says.

A span is a whole record of at most `max_span` seconds, or a piece of a longer one. A multi-segment record carries
the headers of the segments that a span touches, so that whoever scores the span needs no other object than its
signals; headers that a master names as its segments are no records of their own.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from anyecg_ray import storage
from anyecg_ray.datasets.found import OLDEST, Found
from anyecg_ray.header import NO_FILE, Header, RecordError, header_text, later, parse_header, renamed
from anyecg_ray.plan import samples_of
from anyecg_ray.schema import MANIFEST, Status
from anyecg_ray.storage import MissingObject, Range, RefusedError, StorageError, TransientError

SHORTEST = 10.0
"""Seconds of the shortest tail of a record that is a span: a shorter one holds no window."""

MAX_SPANS = 100_000
"""Spans of one record, two years of 10 minutes: a header that claims more is not believed."""

IN_FLIGHT = pa.schema(
    [f.with_type(pa.dictionary(pa.int32(), pa.string())) if f.name == "header" else f for f in MANIFEST]
)
"""MANIFEST with each header once, however many spans share it."""


class Indexed(NamedTuple):
    """What became of some records."""

    rows: pa.Table
    """Their spans, as IN_FLIGHT."""
    claimed: list[str]
    """Records elsewhere that are segments of one of these."""
    failed: list[str]
    """A reason for each header that could not be fetched this time, without its path; its record has no row."""
    refused: str | None
    """The same, where storage refused every one of the headers."""


Text = str | StorageError
Parsed = Header | RecordError
Row = dict[str, Any]


class _Read(NamedTuple):
    """What was read for some records and their segments, by their paths."""

    texts: Mapping[str, Text]
    headers: Mapping[str, Parsed]
    sizes: Mapping[str, int | StorageError]
    """Bytes of the first signal file, where the header does not say how long the record is."""


def index(archive: str, dataset: str, max_span: float, found: Sequence[Found]) -> Indexed:
    """The spans of some records, of at most `max_span` seconds each."""
    texts = _fetched(archive, [f.record_id for f in found])
    headers = {i: _parsed(text) for i, text in texts.items()}
    named = {i: _segments(i, header) for i, header in headers.items()}
    sizes = _sizes(archive, headers)
    elsewhere = list(dict.fromkeys(s for names in named.values() for s in names if s not in texts))
    more = _fetched(archive, elsewhere)
    read = _Read({**texts, **more}, {**headers, **{i: _parsed(text) for i, text in more.items()}}, sizes)
    claimed = {s for i, names in named.items() for s in names if s != i}
    rows: list[Row] = []
    failed: list[str] = []
    for record in found:
        i = record.record_id
        met = (*(read.texts[k] for k in (i, *named[i])), sizes.get(i))
        passing = [e for e in met if isinstance(e, TransientError | RefusedError)]
        if passing:
            failed.append(passing[0].reason)
        elif i not in claimed:
            rows += _rows(record, dataset, max_span, read)
    refused = [text.reason for f in found if isinstance(text := texts[f.record_id], RefusedError)]
    return Indexed(_table(rows), elsewhere, failed, refused[0] if len(refused) == len(found) else None)


def segments(record_id: str, header: str) -> list[str]:
    """Paths of the segments that a manifest's `header` names, without suffix; none for a single record."""
    return _segments(record_id, _parsed(header.partition("\f")[0]))


def _segments(record_id: str, header: Parsed) -> list[str]:
    names = [s.name for s in header.segments] if isinstance(header, Header) else []
    return [beside(record_id, name) for name in names if name != NO_FILE]


def beside(record_id: str, name: str) -> str:
    """A name in a header as a path in the archive: it is relative to the header's own folder."""
    return record_id[: record_id.rfind("/") + 1] + name


def _fetched(archive: str, record_ids: Sequence[str]) -> dict[str, Text]:
    raw = storage.read_ranges([Range(storage.join(archive, i + ".hea")) for i in record_ids])
    return {i: header_text(r) if isinstance(r, bytes) else r for i, r in zip(record_ids, raw, strict=True)}


def _parsed(text: Text) -> Parsed:
    if isinstance(text, MissingObject):
        return RecordError(Status.UNREADABLE, "its header is not there")
    if isinstance(text, StorageError):
        return RecordError(Status.UNREADABLE, str(text))
    try:
        return parse_header(text)
    except RecordError as error:
        return error
    except Exception as error:  # a header that nobody foresaw must not end a run over millions
        return RecordError(Status.UNREADABLE, f"{type(error).__name__}: {error}"[:200])


def _rows(record: Found, dataset: str, max_span: float, read: _Read) -> Iterator[Row]:
    text, header = read.texts[record.record_id], read.headers[record.record_id]
    row: Row = {
        "record_id": record.record_id,
        "dataset": dataset,
        "patient_id": record.patient_id,
        "encounter_id": record.encounter_id,
        "age": record.age,
        "sex": record.sex,
        "header": text if isinstance(text, str) else None,
    }
    if isinstance(header, RecordError):
        yield row | _bad(row, header)
        return
    row |= {"fs": header.fs, "leads": _leads(record.record_id, header, read)}
    row |= {k: v for k, v in age_and_sex(header.comments).items() if row[k] is None}
    try:
        pieces = spans(_length(record.record_id, header, read), header.fs, max_span)
    except RecordError as error:
        yield row | _bad(row, error)
        return
    for start, n in pieces:
        time = later(record.start_time or header.start, start / header.fs)
        span = {"span_id": f"{row['record_id']}#{start}", "start_sample": start, "n_samples": n, "start_time": time}
        yield row | span | _of_signals(record.record_id, header, start, n, read)


def _bad(row: Row, error: RecordError) -> Row:
    """The columns of a record that has no spans."""
    told = {"status": str(error.status), "status_detail": error.detail}
    return {"span_id": f"{row['record_id']}#0", "start_sample": 0, "n_samples": None, **told}


def spans(length: int | None, fs: float, max_span: float) -> list[tuple[int, int | None]]:
    """(first sample, samples) of each span of a record; (0, None) where its length is not known.

    A tail of less than 10 s is left out. Raises RecordError where there would be too many to believe.
    """
    step = max(1, int(max_span * fs))
    if length is None or length <= step:
        return [(0, length)]
    if length > MAX_SPANS * step:
        raise RecordError(Status.UNREADABLE, f"the header claims {length} samples, {length / fs / 86400:.0f} days")
    starts = range(0, length, step)
    return [(a, min(step, length - a)) for a in starts if length - a >= min(step, SHORTEST * fs)]


def _of_signals(record_id: str, header: Header, start: int, n: int | None, read: _Read) -> Row:
    """The columns that a span's signals decide: which objects, their headers, whether they are there."""
    if n == 0:
        return {"status": str(Status.TOO_SHORT), "status_detail": "the record has no samples", "files": []}
    if not header.segments:
        return {"status": str(Status.OK), "files": _files(record_id, header)}
    files, text, error = list[str](), [str(read.texts[record_id])], None
    for name in touching(header, start, n):
        i = beside(record_id, name)
        segment, its_text = read.headers[i], read.texts[i]
        if isinstance(segment, Header) and isinstance(its_text, str):
            files += [f for f in _files(i, segment) if f not in files]
            text.append(renamed(its_text, name))
        else:
            missing = isinstance(its_text, MissingObject)
            error = (
                (Status.MISSING_SIGNAL, f"segment {i}: no header")
                if missing
                else (Status.UNREADABLE, f"segment {i}: {segment}")
            )
    status, detail = error or (Status.OK, None)
    return {"status": str(status), "status_detail": detail, "files": files, "header": "\f".join(text)}


def touching(header: Header, start: int, n: int | None) -> list[str]:
    """Names of the segments that hold samples of a span, and of the layout where there is one."""
    names, at = [], 0
    for k, segment in enumerate(header.segments):
        layout = k == 0 and header.variable
        overlaps = at < start + (n or 0) and start < at + segment.n_samples
        if (layout or overlaps) and segment.name != NO_FILE:
            names.append(segment.name)
        at += segment.n_samples
    return list(dict.fromkeys(names))


def _files(record_id: str, header: Header) -> list[str]:
    return list(dict.fromkeys(beside(record_id, s.file) for s in header.signals if s.file != NO_FILE))


def _leads(record_id: str, header: Header, read: _Read) -> list[str]:
    """The signals' names; a multi-segment record's are those of its first segment: its layout, if it has one."""
    first = next((s.name for s in header.segments if s.name != NO_FILE), None)
    told = header if first is None else read.headers[beside(record_id, first)]
    return [s.name for s in told.signals] if isinstance(told, Header) else []


def _length(record_id: str, header: Header, read: _Read) -> int | None:
    """Samples of a record; None where neither its header nor the size of its file tells. Raises RecordError."""
    if header.n_samples or header.segments:
        return header.n_samples or sum(s.n_samples for s in header.segments)
    file, size = _first_file(header), read.sizes.get(record_id)
    if file is None or size is None:
        return None
    if isinstance(size, MissingObject):
        raise RecordError(Status.MISSING_SIGNAL, f"{file}: not there")
    if isinstance(size, StorageError):
        raise RecordError(Status.UNREADABLE, str(size))
    return samples_of(header, file, size)


def _first_file(header: Header) -> str | None:
    return next((s.file for s in header.signals if s.file != NO_FILE), None)


def _sizes(archive: str, headers: Mapping[str, Parsed]) -> dict[str, int | StorageError]:
    """Bytes of the first signal file of each record whose header does not say how long it is."""
    unknown = {
        i: beside(i, file)
        for i, h in headers.items()
        if isinstance(h, Header) and not h.n_samples and (file := _first_file(h))
    }
    sizes = storage.sizes([storage.join(archive, path) for path in unknown.values()])
    return dict(zip(unknown, sizes, strict=True))


def age_and_sex(comments: Sequence[str]) -> Row:
    """Age (years, null where it is none) and sex (F, M or null) from comments as the CinC challenges write them.

    `#Age: 56` and `#Sex: Female`, in any case; "NaN" and "Unknown" are null.
    """
    told: Row = {"age": None, "sex": None}
    for comment in comments:
        match = re.match(r"\s*#?\s*(age|sex|gender)\s*:\s*(\S+)", comment, re.IGNORECASE)
        if match and match[1].lower() == "age":
            told["age"] = told["age"] or _age(match[2])
        elif match:
            told["sex"] = told["sex"] or {"f": "F", "m": "M"}.get(match[2][0].lower())
    return told


def _age(text: str) -> float | None:
    match = re.fullmatch(r"\d{1,3}(\.\d+)?", text)
    if not match:
        return None
    age = float(text)
    return age if age <= 130 else OLDEST + 1 if age == 300 else None


def _table(rows: Sequence[Row]) -> pa.Table:
    texts: dict[str | None, int] = {}
    at = [texts.setdefault(row["header"], len(texts)) for row in rows]
    header = pa.DictionaryArray.from_arrays(pa.array(at, pa.int32()), pa.array(list(texts), pa.string()))
    columns = [header if f.name == "header" else pa.array([r.get(f.name) for r in rows], f.type) for f in IN_FLIGHT]
    return pa.table(columns, schema=IN_FLIGHT)

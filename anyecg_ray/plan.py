"""Which bytes of which signal files hold a span of a WFDB record, and where their samples go.

Headers alone decide: a plan is made before anything is fetched, and made again, the same, to decode what was
fetched. Spans are counted in frames of the record, and a multi-segment record is one timeline with gaps.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import groupby
from typing import NamedTuple

from anyecg_ray.formats import BLOCKS, FLAC, bytes_of, samples_in
from anyecg_ray.header import NO_FILE, Header, RecordError, Segment, Signal, parse_headers
from anyecg_ray.schema import Status

MIXED = "mixed"
"""Units of a signal that changes its units between segments."""

MAX_VALUES = 1 << 26
"""Samples over all leads of a span: 512 MB, three hours of 12 leads at 500 Hz. Headers may claim anything."""

Leads = Sequence[str | int]


class FileRead(NamedTuple):
    """The frames of one signal file that a span needs."""

    file: str
    signals: tuple[Signal, ...]
    """All signals of the file: together they make its frame."""
    rows: tuple[tuple[int, int], ...]
    """(row of the answer, place among `signals`) of those that are wanted."""
    start: int
    stop: int | None
    """Frames that the span has, signals without skew taken; None: to the end of the file."""
    end: int | None
    """Frames that the header gives the file; None where it does not say."""
    at: int
    """Column of the answer that `start` goes to."""

    @property
    def fmt(self) -> str:
        """The file's only format: one that changed within a frame would be none of WFDB's."""
        return self.signals[0].fmt

    @property
    def frame(self) -> int:
        """Samples of one frame."""
        return sum(s.samples_per_frame for s in self.signals)

    @property
    def last(self) -> int | None:
        """The frame up to which to read: skewed signals end after `stop`."""
        if self.stop is None:
            return None
        last = self.stop + max(self.signals[k].skew for _, k in self.rows)
        return last if self.end is None else min(last, self.end)

    @property
    def must(self) -> int:
        """The frame up to which the file must go."""
        if self.stop is None or self.last is None:
            return self.start + 1
        return self.stop if self.end is None else self.last

    def first(self) -> int:
        """The first byte to read."""
        if self.fmt in FLAC:
            return 0
        return self.signals[0].byte_offset + self.first_block() * BLOCKS[self.fmt][-1]

    def first_block(self) -> int:
        """The block of samples that the read begins with; the sums of format 8 begin where the file does."""
        return 0 if self.fmt == "8" else self.start * self.frame // len(BLOCKS[self.fmt])

    def bytes_to(self, frame: int) -> int:
        """Bytes from the first to read up to a frame of the file."""
        return bytes_of(self.fmt, frame * self.frame - self.first_block() * len(BLOCKS[self.fmt]))

    def range(self) -> tuple[int, int | None]:
        """(first byte, bytes) to read; None for all that follow."""
        last = None if self.fmt in FLAC else self.last
        return self.first(), None if last is None else self.bytes_to(last)


class Plan(NamedTuple):
    """How to answer for one span."""

    header: Header
    leads: tuple[str, ...]
    units: tuple[str, ...]
    calibrated: tuple[bool, ...]
    start: int
    frames: int | None
    """None: as many as the first of `reads` has."""
    per_frame: int
    """Samples that the answer has of a frame: as many as all wanted signals can give without one being made up."""
    reads: tuple[FileRead, ...]

    def ranges(self) -> dict[str, tuple[int, int | None]]:
        """(first byte, bytes) of each file; segments that share a file share one range around theirs."""
        ranges: dict[str, tuple[int, int | None]] = {}
        for read in self.reads:
            first, n = read.range()
            if read.file in ranges:
                other, m = ranges[read.file]
                end = None if n is None or m is None else max(first + n, other + m)
                first = min(first, other)
                n = None if end is None else end - first
            ranges[read.file] = (first, n)
        return ranges


def plan(text: str | bytes, start: int, stop: int | None, leads: Leads | None) -> Plan:
    """How to answer for the samples [start, stop) of some leads of a record.

    text: a header, or a multi-segment one followed by those of its segments, each after a form feed.
    Raises RecordError.
    """
    it = _plan(text, start, stop, leads)
    check_size(len(it.leads) * (it.frames or 0) * it.per_frame)
    return it


def check_size(values: int) -> None:
    """Raises RecordError (unreadable) where a span has more samples, over all leads, than one may."""
    if values > MAX_VALUES:
        raise RecordError(Status.UNREADABLE, f"a span of {values} samples; at most {MAX_VALUES} are read at once")


def _plan(text: str | bytes, start: int, stop: int | None, leads: Leads | None) -> Plan:
    headers = _headers(text)
    header = next(iter(headers.values()))
    if start < 0 or (stop is not None and stop < 0):
        raise RecordError(Status.UNREADABLE, f"the span [{start}, {stop}) begins before the record")
    if header.segments:
        return _plan_segments(header, headers, start, stop, leads)
    stop = _stop(header, start, stop)
    rows = _rows(header.signals, leads)
    wanted = [header.signals[k] for k in rows]
    return Plan(
        header=header,
        leads=tuple(s.name for s in wanted),
        units=tuple(s.units for s in wanted),
        calibrated=tuple(s.calibrated for s in wanted),
        start=start,
        frames=None if stop is None else stop - start,
        per_frame=_per_frame(wanted),
        reads=tuple(_file_reads(header, dict(enumerate(rows)), start, stop, 0)),
    )


def _per_frame(signals: Sequence[Signal]) -> int:
    """A monitor's frame may hold an ECG at four times the rate of all else; what differs is averaged to one rate."""
    return math.gcd(*(s.samples_per_frame for s in signals)) or 1


# of the next few hundred spans: a plan is made twice, before and after its bytes are fetched
@lru_cache(512)
def _headers(text: str | bytes) -> Mapping[str, Header]:
    return parse_headers(text)


def _stop(header: Header, start: int, stop: int | None) -> int | None:
    end = header.n_samples
    if stop is None:
        stop = end
    elif end is not None and stop > end:
        detail = f"the span ends at sample {stop}, {header.name} has {end}"
        raise RecordError(Status.TRUNCATED, detail)
    if stop is not None and start >= stop:
        raise RecordError(Status.TOO_SHORT, f"no samples from {start} to {stop}")
    return stop


def _rows(signals: Sequence[Signal], leads: Leads | None) -> list[int]:
    """Places of the wanted leads among some signals, in the order asked for."""
    if leads is None:
        rows = list(range(len(signals)))
    else:
        names = [s.name for s in signals]
        rows = [_place(names, lead) for lead in leads]
    if not rows:
        raise RecordError(Status.MISSING_LEAD, "no signals to read")
    return rows


def _place(names: list[str], lead: str | int) -> int:
    if isinstance(lead, int) and 0 <= lead < len(names):
        return lead
    if lead in names:
        return names.index(str(lead))
    has = ", ".join(names[:20]) or "none"
    raise RecordError(Status.MISSING_LEAD, f"no lead {lead}; the record has {has}")


def _file_reads(header: Header, wanted: Mapping[int, int], start: int, stop: int | None, at: int) -> Iterator[FileRead]:
    """wanted: row of the answer -> signal of this single record."""
    places = 0
    for file, group in groupby(header.signals, key=lambda s: s.file):
        signals = tuple(group)
        rows = tuple((row, k - places) for row, k in wanted.items() if places <= k < places + len(signals))
        places += len(signals)
        if rows and file != NO_FILE:
            _check_frame(header, signals)
            yield FileRead(file, signals, rows, start, stop, header.n_samples, at)


def _check_frame(header: Header, signals: Sequence[Signal]) -> None:
    file, fmt = signals[0].file, signals[0].fmt
    if any(s.fmt != fmt for s in signals):
        raise RecordError(Status.UNREADABLE, f"{file}: its signals have more than one format")
    if fmt in FLAC and len({s.samples_per_frame for s in signals}) > 1:
        raise RecordError(Status.UNREADABLE, f"{file}: a FLAC file has one sampling rate, its signals several")


def samples_of(header: Header, file: str, size: int) -> int | None:
    """Frames that a signal file of so many bytes holds; None for FLAC, whose size does not tell.

    For headers that do not say how long their record is.
    """
    signals = [s for s in header.signals if s.file == file]
    if not signals or signals[0].fmt not in BLOCKS:
        return None
    data = max(0, size - signals[0].byte_offset)
    return samples_in(signals[0].fmt, data) // sum(s.samples_per_frame for s in signals)


class _Piece(NamedTuple):
    """What of one segment lies in a span."""

    header: Header
    start: int
    stop: int
    at: int


def _plan_segments(
    header: Header, headers: Mapping[str, Header], start: int, stop: int | None, leads: Leads | None
) -> Plan:
    total = sum(s.n_samples for s in header.segments)
    begun = replace(header, n_samples=header.n_samples or total)
    stop = _stop(begun, start, stop) or 0
    if stop > total:
        raise RecordError(Status.TRUNCATED, f"the span ends at sample {stop}, the segments at {total}")
    pieces = list(_pieces(header, headers, start, stop))
    layout = _segment(header, headers, header.segments[0]) if header.variable else _first(pieces)
    rows = _rows(layout.signals, leads)
    names = [layout.signals[k].name for k in rows]
    reads: list[FileRead] = []
    found: list[list[Signal]] = [[] for _ in rows]
    for piece in pieces:
        signals = piece.header.signals
        places = _by_name(names, signals) if header.variable else _by_place(rows, layout, piece.header)
        for row, k in places.items():
            found[row].append(signals[k])
        reads += _file_reads(piece.header, places, piece.start, piece.stop, piece.at)
    like = [seen or [layout.signals[k]] for seen, k in zip(found, rows, strict=True)]
    units = [{s.units for s in signals} for signals in like]
    return Plan(
        header=header,
        leads=tuple(names),
        units=tuple(next(iter(u)) if len(u) == 1 else MIXED for u in units),
        calibrated=tuple(
            len(u) == 1 and all(s.calibrated for s in signals) for u, signals in zip(units, like, strict=True)
        ),
        start=start,
        frames=stop - start,
        per_frame=_per_frame([s for signals in found for s in signals]),
        reads=tuple(reads),
    )


def _pieces(header: Header, headers: Mapping[str, Header], start: int, stop: int) -> Iterator[_Piece]:
    at = 0
    for segment in header.segments:
        a, b = max(start, at), min(stop, at + segment.n_samples)
        if a < b and segment.name != NO_FILE:
            its = _segment(header, headers, segment)
            _stop(its, a - at, b - at)
            yield _Piece(its, a - at, b - at, a - start)
        at += segment.n_samples


def _segment(master: Header, headers: Mapping[str, Header], segment: Segment) -> Header:
    header = headers.get(segment.name)
    if header is None:
        raise RecordError(Status.MISSING_SIGNAL, f"segment {segment.name}: no header")
    if header.segments:
        raise RecordError(Status.UNREADABLE, f"segment {segment.name} is a multi-segment record itself")
    if abs(header.fs - master.fs) > 1e-3 * master.fs:
        detail = f"segment {segment.name} has {header.fs:g} Hz, its record {master.fs:g} Hz"
        raise RecordError(Status.UNREADABLE, detail)
    return header


def _first(pieces: Sequence[_Piece]) -> Header:
    if not pieces:
        raise RecordError(Status.NON_FINITE, "the span lies in a gap between segments")
    return pieces[0].header


def _by_name(names: Sequence[str], signals: Sequence[Signal]) -> dict[int, int]:
    """Variable layout: row of the answer -> the segment's signal of that name, where it has one."""
    places = {s.name: k for k, s in reversed(list(enumerate(signals)))}
    return {row: places[name] for row, name in enumerate(names) if name in places}


def _by_place(rows: Sequence[int], layout: Header, segment: Header) -> dict[int, int]:
    """Fixed layout: every segment has the same signals in the same order."""
    if [s.name for s in segment.signals] != [s.name for s in layout.signals]:
        detail = f"segments {layout.name} and {segment.name} have different signals in a record of fixed layout"
        raise RecordError(Status.UNREADABLE, detail)
    return dict(enumerate(rows))

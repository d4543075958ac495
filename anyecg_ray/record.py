"""WFDB from bytes: which bytes a span of a record needs, and what they say in physical units.

Nothing here opens a file or knows where bytes came from: `reads` says what to fetch, `decode` takes what was
fetched. The answer is wfdb.rdrecord's, bit for bit, but where wfdb is wrong (tests/test_record.py lists how) or
takes what is not there for zeros; whatever the bytes are, what comes out is a Record or a RecordError.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import accumulate
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from anyecg_ray.formats import BLOCKS, FLAC, INVALID, FormatError, Ints, samples_in, unpack, unpack_flac
from anyecg_ray.header import RecordError, Signal, later
from anyecg_ray.plan import MAX_VALUES, FileRead, Leads, Plan, check_size, plan, samples_of
from anyecg_ray.schema import Status

__all__ = ["Record", "RecordError", "decode", "reads", "samples_of"]

Bytes = bytes | bytearray | memoryview


@dataclass(frozen=True)
class Record:
    """A span of a record in physical units."""

    signals: NDArray[np.float64]
    """(leads, samples); NaN where the file says invalid, has no such signal, or where skew reaches past its end."""
    leads: tuple[str, ...]
    units: tuple[str, ...]
    """As the header writes them; "mixed" where the segments of the span do not agree."""
    calibrated: tuple[bool, ...]
    """False: the header gives no gain, or 0, and 200 per unit is WFDB's guess."""
    fs: float
    start: datetime | None
    """Time of the first sample, in UTC because headers know no time zones; None where the header has no date."""


def reads(
    header_text: str | bytes, start: int = 0, stop: int | None = None, leads: Leads | None = None
) -> dict[str, tuple[int, int | None]]:
    """Signal file -> (first byte, bytes) of the samples [start, stop) of some leads; None: to the end of the file.

    header_text: a header; that of a multi-segment record is followed by its segments', each after a form feed, of
    which only those that overlap the span (and the layout) have to be there. Files are relative to the header.
    Raises RecordError where the header is bad, or the span is not in the record.
    """
    return plan(header_text, start, stop, leads).ranges()


def decode(
    header_text: str | bytes,
    blobs: Mapping[str, Bytes],
    start: int = 0,
    stop: int | None = None,
    leads: Leads | None = None,
) -> Record:
    """The samples [start, stop) of some leads (names or places; all by default), in the order asked for.

    blobs: the bytes that `reads` names for the very same arguments. The span is counted in frames of the record. Where
    all these leads have several samples in a frame, so has the answer, at so much higher a rate; where they differ, the
    largest number that divides all, and the rest is averaged, in ADC units and without fraction, as the library does.
    Raises RecordError: unreadable, missing_signal, truncated, too_short (no samples) or missing_lead.
    """
    it = plan(header_text, start, stop, leads)
    ranges = it.ranges()
    files = [_frames(read, _blob(read, blobs, ranges[read.file][0])) for read in it.reads]
    signals = _empty(it, _length(files) if it.frames is None else it.frames)
    for part in files:
        _fill(signals, part)
    flat = signals.reshape(len(it.leads), -1)
    begins = later(it.header.start, start / it.header.fs)
    return Record(flat, it.leads, it.units, it.calibrated, it.header.fs * it.per_frame, begins)


class _Frames(NamedTuple):
    """Samples of a file, as they lie there."""

    read: FileRead
    first: int
    """Frame of the file that `samples` begin with."""
    samples: Ints
    """(frames, samples of one frame)."""


def _blob(read: FileRead, blobs: Mapping[str, Bytes], begins: int) -> memoryview:
    """The bytes of one read. begins: byte of the file at which the file's blob begins."""
    blob = blobs.get(read.file)
    if blob is None:
        raise RecordError(Status.MISSING_SIGNAL, f"{read.file}: not there")
    return memoryview(blob)[read.first() - begins :]


def _frames(read: FileRead, raw: memoryview) -> _Frames:
    if read.fmt in FLAC:
        return _flac_frames(read, raw)
    needed = read.bytes_to(read.must)
    if len(raw) < needed:
        raise _cut(read, f"{len(raw)} bytes where {needed} are needed")
    size = len(raw) if read.last is None else min(len(raw), read.bytes_to(read.last))
    first = 0 if read.fmt == "8" else read.start
    skip = first * read.frame - read.first_block() * len(BLOCKS[read.fmt])
    n = (samples_in(read.fmt, size) - skip) // read.frame
    n = n if read.last is None else min(n, read.last - first)
    flat = unpack(read.fmt, raw[:size], skip + n * read.frame)
    return _Frames(read, first, flat[skip:].reshape(n, read.frame))


def _flac_frames(read: FileRead, raw: memoryview) -> _Frames:
    channels, each = len(read.signals), read.signals[0].samples_per_frame
    offset = read.signals[0].byte_offset  # of a FLAC file it counts samples
    start = offset + read.start * each
    most = start + MAX_VALUES // channels + 1
    stop = most if read.last is None else min(most, offset + read.last * each)
    try:
        samples = unpack_flac(read.fmt, raw, channels, start, stop)
    except FormatError as error:
        raise RecordError(Status.UNREADABLE, f"{read.file} {error}") from None
    check_size(samples.size)
    n = len(samples) // each
    if read.start + n < read.must:
        raise _cut(read, f"ends at sample {read.start + n}, {read.must} are needed")
    frames = samples[: n * each].reshape(n, each, channels).transpose(0, 2, 1)
    return _Frames(read, read.start, frames.reshape(n, read.frame))


def _cut(read: FileRead, detail: str) -> RecordError:
    """A file that has less than one sample, where nobody said how many, is not a truncated one."""
    status = Status.TOO_SHORT if read.stop is None else Status.TRUNCATED
    return RecordError(status, f"{read.file}: {detail}")


def _length(files: Sequence[_Frames]) -> int:
    """Samples of a record whose header does not say how many: as many as its first file has."""
    if not files:
        raise RecordError(Status.TOO_SHORT, "the record has no samples")
    lengths = [len(part.samples) - (part.read.start - part.first) for part in files]
    for part, n in zip(files, lengths, strict=True):
        if n < lengths[0]:
            detail = f"{part.read.file}: {n} samples, {files[0].read.file} has {lengths[0]}"
            raise RecordError(Status.TRUNCATED, detail)
    return lengths[0]


def _empty(it: Plan, frames: int) -> NDArray[np.float64]:
    """Where the signals go, (leads, frames, samples of a frame): NaN unless files fill all of it."""
    shape = len(it.leads), frames, it.per_frame
    check_size(math.prod(shape))
    filled = sum(len(r.rows) * (frames if r.stop is None else r.stop - r.start) for r in it.reads)
    return np.empty(shape) if filled == shape[0] * shape[1] else np.full(shape, np.nan)


def _fill(signals: NDArray[np.float64], part: _Frames) -> None:
    read = part.read
    edges = [0, *accumulate(s.samples_per_frame for s in read.signals)]
    n = signals.shape[1] if read.stop is None else read.stop - read.start
    for row, k in read.rows:
        signal, begins = read.signals[k], read.start - part.first + read.signals[k].skew
        samples = part.samples[:, edges[k] : edges[k + 1]]
        if read.fmt == "8":  # differences
            samples = (samples.reshape(-1).cumsum(dtype=np.int64) + signal.initial).reshape(samples.shape)
        samples = samples[begins : begins + n]
        into = signals[row, read.at : read.at + n]
        _convert(samples, signal, into[: len(samples)])
        into[len(samples) :] = np.nan  # skewed beyond the end of the file


def _convert(samples: Ints, signal: Signal, into: NDArray[np.float64]) -> None:
    """ADC units, (frames, samples of the signal in each), to physical units, (frames, samples of the answer in each).

    What is averaged is invalid where one sample is, and has no fraction: lib/signal.c, rgetvec.
    """
    means, invalid = samples, samples == INVALID.get(signal.fmt)
    if samples.shape != into.shape:
        several = samples.reshape(*into.shape, -1)
        means = np.trunc(several.sum(axis=2, dtype=np.int64) / several.shape[2])
        invalid = invalid.reshape(several.shape).any(axis=2)
    np.subtract(means, float(signal.baseline), out=into, dtype=np.float64)
    np.divide(into, signal.gain, out=into)
    if invalid.any():
        into[invalid] = np.nan

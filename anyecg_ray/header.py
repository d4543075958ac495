"""The text of a WFDB header (.hea), parsed strictly: a record, its signals, or the segments that it is made of.

Where wfdb-python and the WFDB library in C disagree, the library and header(5), which defines the format, are
followed. Whatever the text is, the answer is a Header or a RecordError; no number in it is believed that could
make a reader allocate more than the text or the signals are worth.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from anyecg_ray.formats import FORMATS
from anyecg_ray.schema import Status

NO_FILE = "~"
"""Stands for a signal without samples in a layout header, and for a gap among segments."""

DEFAULT_FS = 250.0
"""Hz where a header does not say, as in header(5)."""

DEFAULT_GAIN = 200.0
"""ADC units per physical unit where a header says none or 0: the signal is not calibrated."""

MAX_FRAME = 100_000
"""Samples of one signal in one frame; recordings have 32, or 1,000 where a frame is a second."""


MAX_SAMPLES = 10**12
"""Frames of a record or segment: 60 years at 500 Hz. A header that claims more is not believed."""

MAX_OFFSET = 10**15
"""Bytes before the first sample of a file."""


class RecordError(Exception):
    """What is wrong with a record's header or signal bytes."""

    def __init__(self, status: Status, detail: str) -> None:
        super().__init__(status, detail)
        self.status = status
        self.detail = detail

    def __str__(self) -> str:
        return self.detail


@dataclass(frozen=True, slots=True)
class Signal:
    """How one signal lies in its file, and what its numbers mean."""

    file: str
    """Relative to the header's folder; NO_FILE where there are no samples."""
    fmt: str
    samples_per_frame: int
    skew: int
    """Frames of the file that come before this signal's sample 0."""
    byte_offset: int
    """Bytes before the first frame; samples in a FLAC file."""
    gain: float
    """ADC units per physical unit; may be negative, is never 0."""
    baseline: int
    units: str
    calibrated: bool
    """The header says a gain."""
    initial: int
    """Value before the first difference, for format 8."""
    name: str


@dataclass(frozen=True, slots=True)
class Segment:
    """One line of a multi-segment header: a record, or a gap where its name is NO_FILE."""

    name: str
    n_samples: int


@dataclass(frozen=True, slots=True)
class Header:
    """A record; `segments` is empty for a single one, `signals` for a multi-segment one."""

    name: str
    fs: float
    """Frames per second, which is what a sample is here where a signal has several in a frame."""
    n_samples: int | None
    """Frames; None where the header does not say or says 0."""
    start: datetime | None
    """In UTC, because headers know no time zones; None unless date and time are both there."""
    n_signals: int
    signals: tuple[Signal, ...]
    segments: tuple[Segment, ...]
    comments: tuple[str, ...]

    @property
    def variable(self) -> bool:
        """The first segment is a layout: it names every signal that any segment has, and has no samples."""
        return bool(self.segments) and self.segments[0].n_samples == 0


def header_text(raw: bytes) -> str:
    """A header's text: UTF-8, else Latin-1 (the odd comment, and µV). Form feeds, which part headers, become blanks."""
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    return text.replace("\f", " ")


def parse_header(text: str | bytes) -> Header:
    """One header's content. Raises RecordError (unreadable) where it does not follow header(5)."""
    text = header_text(text) if isinstance(text, bytes) else text.removeprefix("\ufeff")
    lines = [line.strip() for line in text.replace("\r", "\n").split("\n")]
    fields = [line for line in lines if line and line[0] != "#"]
    comments = tuple(line.strip(" \t#") for line in lines if line and line[0] == "#")
    if not fields:
        raise _unreadable("the header is empty")
    match = _RECORD.fullmatch(fields[0])
    if match is None:
        raise _unreadable(f"record line {_shown(fields[0])} cannot be read")
    name, n_segments, n_signals, fs, n_samples, when = match.groups()
    signals = () if n_segments else _signals(fields[1:], int(n_signals))
    segments = _segments(fields[1:], int(n_segments)) if n_segments else ()
    return Header(
        name=name,
        fs=_fs(fs),
        n_samples=_n_samples(n_samples) or None,
        start=_start(when or ""),
        n_signals=int(n_signals),
        signals=signals,
        segments=segments,
        comments=comments,
    )


def parse_headers(text: str | bytes) -> dict[str, Header]:
    """Headers parted by form feeds, by their record's name: the record itself first, then its segments.

    Raises RecordError (unreadable) where any of them cannot be read.
    """
    headers: dict[str, Header] = {}
    for part in text.split("\f") if isinstance(text, str) else text.split(b"\f"):
        header = parse_header(part)
        headers.setdefault(header.name, header)
    return headers


def renamed(text: str, name: str) -> str:
    """A header with this name in its record line: a segment goes by its file's name, whatever it calls itself."""
    return _NAME.sub(lambda found: found[1] + name, text, count=1)


_NAME = re.compile(r"\A(\ufeff?(?:[ \t]*(?:#[^\r\n]*)?[\r\n])*[ \t]*)[^\s/#]+")

_INT = r"\d{1,18}"
_FLOAT = r"(?:\d{1,30}\.?\d{0,30}|\.\d{1,30})(?:[eE][-+]?\d{1,3})?"

# name[/segments] signals [fs[/counter frequency[(base counter)]] [samples [time and date]]]
_RECORD = re.compile(
    rf"([^\s/]+)(?:/({_INT}))?\s+({_INT})"
    rf"(?:\s+({_FLOAT})(?:/\S*)?(?:\s+({_INT})(?:\.0*)?(?:\s+(.*))?)?)?",
    re.ASCII,
)

# file format[xsamples per frame][:skew][+byte offset]
#     [gain[(baseline)][/units] [resolution [zero [initial value [checksum [block size]]]]] [name]]
_NUMBER = r"[-+]?\d{1,18}(?:\.\d*)?"
_SIGNAL = re.compile(
    rf"(\S+)\s+(\d{{1,3}})(?:x({_INT}))?(?::({_INT}))?(?:\+({_INT}))?"
    rf"(?:\s+([-+]?{_FLOAT})?(?:\(([-+]?{_INT})\))?(?:/(\S*))?(?!\S)"
    rf"(?:\s+{_NUMBER}(?!\S)(?:\s+({_NUMBER})(?!\S)(?:\s+({_NUMBER})(?!\S)"
    rf"(?:\s+{_NUMBER}(?!\S)(?:\s+{_NUMBER}(?!\S))?)?)?)?)?"
    r"(?:\s+(.*))?)?",
    re.ASCII,
)

_SEGMENT = re.compile(rf"([^\s/]+)\s+({_INT})(?:\s.*)?", re.ASCII)


def _signals(lines: Sequence[str], n: int) -> tuple[Signal, ...]:
    if len(lines) != n:
        raise _unreadable(f"the header promises {n} signals and describes {len(lines)}")
    signals = tuple(_signal(line) for line in lines)
    last, seen = None, set[str]()
    for signal in signals:
        if signal.file != NO_FILE and signal.file != last and signal.file in seen:
            # header(5) wants them together; the library would read the file again from its start
            raise _unreadable(f"the signals of {signal.file} do not stand together")
        last = signal.file
        seen.add(signal.file)
    return signals


def _signal(line: str) -> Signal:
    match = _SIGNAL.fullmatch(line)
    if match is None:
        raise _unreadable(f"signal line {_shown(line)} cannot be read")
    file, fmt, per_frame, skew, offset, gain, baseline, units, zero, initial, name = match.groups()
    _check_name(file)
    if fmt == "0" or file == NO_FILE:
        file, fmt = NO_FILE, "0"
    elif fmt not in FORMATS:
        raise _unreadable(f"{file}: format {fmt} is none of WFDB's")
    frame = max(1, int(per_frame or 1))
    if frame > MAX_FRAME or int(offset or 0) > MAX_OFFSET:
        raise _unreadable(f"{file}: {frame} samples per frame, {offset or 0} bytes before them")
    adc_zero = int(float(zero or 0))
    scale = _gain(gain)
    return Signal(
        file=file,
        fmt=fmt,
        samples_per_frame=frame,
        # header(5) counts samples; only whole frames can be shifted, and the library rounds like this
        skew=(2 * int(skew or 0) + frame) // (2 * frame),
        byte_offset=int(offset or 0),
        gain=scale or DEFAULT_GAIN,
        baseline=adc_zero if baseline is None else int(baseline),
        units=units or "mV",
        calibrated=scale != 0,
        initial=adc_zero if initial is None else int(float(initial)),
        name=name or "",
    )


def _gain(text: str | None) -> float:
    gain = float(text or 0)
    if gain and not 1e-30 <= abs(gain) <= 1e30:
        raise _unreadable(f"gain {text}")
    return gain


def _segments(lines: Sequence[str], n: int) -> tuple[Segment, ...]:
    if len(lines) != n or n == 0:
        raise _unreadable(f"the header promises {n} segments and lists {len(lines)}")
    return tuple(_segment(line) for line in lines)


def _segment(line: str) -> Segment:
    match = _SEGMENT.fullmatch(line)
    if match is None:
        raise _unreadable(f"segment line {_shown(line)} cannot be read")
    _check_name(match[1])
    return Segment(match[1], _n_samples(match[2]))


def _n_samples(text: str | None) -> int:
    n = int(text or 0)
    if n > MAX_SAMPLES:
        raise _unreadable(f"the header claims {n} samples")
    return n


def _check_name(name: str) -> None:
    """Files lie below the header's folder: nobody's header may make a worker read elsewhere."""
    if name == NO_FILE:
        return
    outside = name[0] in "/~" or any(c in name for c in "\\:") or not name.isprintable()
    if outside or any(part in ("", ".", "..") for part in name.split("/")):
        raise _unreadable(f"file name {_shown(name)} does not stay in the record's folder")


def _fs(text: str | None) -> float:
    fs = DEFAULT_FS if text is None else float(text)
    if not 1e-6 <= fs <= 1e7:
        raise _unreadable(f"sampling rate {text} Hz")
    return fs


_TIME = r"((?:\d{1,2}:){0,2}\d{1,2}(?:\.\d{1,20})?)"
_TIME_DATE = re.compile(rf"\[?{_TIME}\s+(\d{{1,2}})/(\d{{1,2}})/(\d{{4}})\]?", re.ASCII)
# not WFDB, but what the CinC challenges write
_DATE_TIME = re.compile(rf"(\d{{1,2}})-([A-Za-z]{{3}})-(\d{{4}})\s+{_TIME}", re.ASCII)
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")


def _start(text: str) -> datetime | None:
    """`[[hours:]minutes:]seconds day/month/year`. None for a time alone, and for what is no date: the ECG is good."""
    if match := _TIME_DATE.fullmatch(text):
        clock, day, month, year = match[1], int(match[2]), int(match[3]), int(match[4])
    elif (match := _DATE_TIME.fullmatch(text)) and match[2].lower() in _MONTHS:
        clock, day, month, year = match[4], int(match[1]), _MONTHS.index(match[2].lower()) + 1, int(match[3])
    else:
        return None
    *hours_minutes, seconds = clock.split(":")
    hours, minutes = ([0, 0, *map(int, hours_minutes)])[-2:]
    whole, _, fraction = seconds.partition(".")
    try:
        second = datetime(year, month, day, hours, minutes, int(whole), tzinfo=UTC)
    except ValueError:
        return None
    return second + timedelta(microseconds=int(fraction[:6].ljust(6, "0")))


def _shown(text: str) -> str:
    shown = ascii(text)
    return shown if len(shown) <= 80 else shown[:77] + "..."


def _unreadable(detail: str) -> RecordError:
    return RecordError(Status.UNREADABLE, detail)


def later(began: datetime | None, seconds: float) -> datetime | None:
    """So many seconds after; a time without a zone is UTC. None where nobody knows when, or beyond the year 9999."""
    if began is None:
        return None
    try:
        return (began if began.tzinfo else began.replace(tzinfo=UTC)) + timedelta(seconds=seconds)
    except OverflowError:
        return None

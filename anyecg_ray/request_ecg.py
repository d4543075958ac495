"""From the bytes of a request to an ECG that can be read: JSON, a CSV, or a WFDB header with its signal files.

Nothing is decoded before its size is known, and nothing that a client names becomes a path: file names of an upload
are keys of a dictionary. Decoding is record.decode's, the same as everywhere.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.csv

from anyecg_ray import leads
from anyecg_ray.formats import FLAC
from anyecg_ray.header import NO_FILE, Header, RecordError, header_text, parse_header, renamed
from anyecg_ray.http_problems import Problem, of_record
from anyecg_ray.limits import Limits
from anyecg_ray.messages import Signals
from anyecg_ray.plan import plan, samples_of
from anyecg_ray.record import Record, decode, reads

HEADER_BYTES = 1 << 20
"""Longest header: a multi-segment record of a day has 100 kB."""

NOT_SIGNALS = {"time", "t", "seconds", "sec", "time_s", "time [s]", "time (s)", "sample", "index", "ms", "time_ms", ""}
"""Names of a CSV's first column that is no lead."""

UNITS_MEND = "give V, mV, uV or nV"


@dataclass(frozen=True)
class Ecg:
    """One ECG: decoded already, or a header and the bytes of its signal files."""

    record: Record | None = None
    header: str = ""
    blobs: Mapping[str, bytes] = field(default_factory=dict)
    """Whole files, by the name that the header has for them."""

    def read(self, wanted: tuple[str, ...] | None = None) -> Record:
        """The record with the signals that the wanted leads are derived from, or more; by default with all.

        Raises RecordError.
        """
        if self.record is not None:
            return self.record
        places = None if wanted is None else leads.sufficient(plan(self.header, 0, None, None).leads, wanted)
        ranges = reads(self.header, 0, None, places)
        parts = {name: self.blobs[name][a : None if n is None else a + n] for name, (a, n) in ranges.items()
                 if name in self.blobs}  # fmt: skip
        return decode(self.header, parts, 0, None, places)


def from_signals(given: Signals, limits: Limits) -> Ecg:
    """An ECG that came as numbers. Raises Problem."""
    rows, names = given.signals, given.leads
    if len(rows) != len(names):
        detail = f"{len(rows)} signals and {len(names)} leads"
        raise Problem(422, "leads_differ", detail, "name each signal once", "leads")
    if len({len(row) for row in rows}) > 1:
        detail = f"the signals have {', '.join(str(len(row)) for row in rows)} samples"
        raise Problem(422, "lengths_differ", detail, "send the same number of samples for every lead", "signals")
    check_length(len(rows[0]), len(rows), given.fs, limits)
    return Ecg(_record(np.array(rows, np.float64), names, given.fs, given.units, given))


def from_csv(raw: bytes, fs: float | None, units: str, limits: Limits) -> Ecg:
    """An ECG as a table: a line of lead names, then one line per sample; a first column of times is skipped.

    Raises Problem.
    """
    if fs is None:
        mend = "add the form field fs: samples a second"
        raise Problem(422, "missing_field", "a CSV does not tell its sampling rate", mend, "fs")
    table = _table(raw)
    names = [name.strip() for name in table.column_names]
    first = 1 if names and names[0].casefold() in NOT_SIGNALS else 0
    if len(names) == first:
        raise Problem(422, "not_csv", "the CSV has no column of a lead", "begin with a line of lead names", "file")
    check_length(len(table), len(names) - first, fs, limits)
    columns = [column.to_numpy(zero_copy_only=False) for column in table.columns[first:]]
    return Ecg(_record(np.array(columns, np.float64), names[first:], fs, units, None))


def _table(raw: bytes) -> pa.Table:
    head, _, rest = raw[:65536].partition(b"\n")
    try:
        names = head.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Problem(422, "not_csv", "the file is not text", "send a CSV in UTF-8", "file") from None
    mark = max((",", ";", "\t"), key=names.count)
    comma = mark != "," and b"," in rest.partition(b"\n")[0]
    columns = [name.strip().strip('"') for name in names.rstrip("\r").split(mark)]
    if all(re.fullmatch(r"[-+]?[\d.,]+(e[-+]?\d+)?", name, re.IGNORECASE) for name in columns):
        mend = "begin with a line of lead names, such as I,II,V1"
        raise Problem(422, "no_lead_names", "the first line of the CSV holds numbers", mend, "file")
    # pyarrow takes types by name; a lead that is there twice is refused later
    unique = [f"{i} {name}" for i, name in enumerate(columns)]
    try:
        table = pa.csv.read_csv(
            pa.BufferReader(raw),
            pa.csv.ReadOptions(use_threads=False, column_names=unique, skip_rows=1),
            pa.csv.ParseOptions(delimiter=mark),
            pa.csv.ConvertOptions(
                column_types=dict.fromkeys(unique, pa.float64()),
                null_values=["", "nan", "NaN", "null", "NULL", "NA"],
                decimal_point="," if comma else ".",
            ),
        )
    except (pa.ArrowException, ValueError, UnicodeDecodeError) as error:
        detail = str(error).splitlines()[0] if str(error) else "cannot be read"
        mend = "send one line of lead names and one line of numbers a sample"
        raise Problem(422, "not_csv", detail, mend, "file") from None
    return table.rename_columns(columns)


def _record(signals: np.ndarray, names: Sequence[str], fs: float, units: str, given: Signals | None) -> Record:
    if leads.millivolts(units) is None:
        raise Problem(422, "unknown_units", f"no unit of voltage is called {units!r}", UNITS_MEND, "units")
    if np.isinf(signals).any():
        mend = "leave a missing sample empty (CSV) or null (JSON)"
        raise Problem(422, "not_finite", "a sample is infinite", mend, "signals")
    seen: dict[str, str] = {}
    for name in names:
        lead = leads.canonical(name) or name.strip().casefold()
        if lead in seen:
            detail = f"{seen[lead]!r} and {name!r} are the same lead"
            raise Problem(422, "lead_twice", detail, "send each lead once", "leads")
        seen[lead] = name
    n = len(names)
    return Record(signals, tuple(names), (units,) * n, (True,) * n, fs, given.start_time if given else None)


def from_files(files: Mapping[str, bytes], limits: Limits) -> Ecg:
    """A WFDB record from its files, by name. Raises Problem."""
    headers = {name[:-4]: raw for name, raw in files.items() if name.lower().endswith(".hea")}
    if not headers:
        mend = "send the record's .hea with its signal files, or one .csv"
        raise Problem(422, "no_header", "no file is a WFDB header (.hea)", mend, "file")
    for name, raw in headers.items():
        check_header_size(len(raw), name)
    try:
        text = joined({name: header_text(raw) for name, raw in headers.items()})
        check_header(text, {name: len(raw) for name, raw in files.items()}, limits)
    except RecordError as error:
        raise of_record(error, "file") from None
    return Ecg(header=text, blobs=files)


def check_header_size(size: int, name: str) -> None:
    """Raises Problem (413) for a header that is too long."""
    if size > HEADER_BYTES:
        detail = f"{name}.hea has {size} bytes, more than {HEADER_BYTES}"
        raise Problem(413, "header_too_large", detail, "send one WFDB header, which is text of a few lines", "file")


def joined(texts: Mapping[str, str]) -> str:
    """A record's header and those of its segments, each after a form feed. Raises RecordError, Problem."""
    parsed = {name: parse_header(text) for name, text in texts.items()}
    masters = [name for name, header in parsed.items() if header.segments] if len(parsed) > 1 else list(parsed)
    if len(masters) != 1:
        mend = "send one record at a time, or several with /v1/estimates:batch"
        raise Problem(422, "several_records", f"{len(masters) or len(parsed)} records came at once", mend, "file")
    (master,) = masters
    segments = dict.fromkeys(s.name for s in parsed[master].segments if s.name != NO_FILE)
    return "\f".join([texts[master], *(renamed(texts[s], s) for s in segments if s in texts)])


def check_header(text: str, sizes: Mapping[str, int], limits: Limits) -> None:
    """Check what a header claims against the limits, before a byte is decoded.

    sizes: bytes of the signal files. Raises RecordError, Problem.
    """
    headers = [parse_header(part) for part in text.split("\f")]
    master = headers[0]
    signals = max(_per_frame(h) for h in headers)
    n = master.n_samples or sum(s.n_samples for s in master.segments) or _counted(master, sizes)
    if n:
        check_length(n, signals, master.fs, limits)


def _per_frame(header: Header) -> int:
    return sum(s.samples_per_frame for s in header.signals)


def _counted(header: Header, sizes: Mapping[str, int]) -> int:
    """Samples, computed from the files' sizes; 0 where no file is there. Raises Problem for FLAC: they do not tell."""
    if any(s.fmt in FLAC for s in header.signals):
        detail = "the header does not say how many samples its FLAC files have"
        raise Problem(422, "no_length", detail, "write the number of samples into the header's first line", "file")
    return max((samples_of(header, s.file, sizes.get(s.file, 0)) or 0 for s in header.signals), default=0)


def check_length(samples: int, signals: int, fs: float, limits: Limits) -> None:
    """Raises Problem (413) for an ECG that is longer, or has more samples, than this server reads."""
    if samples / fs > limits.seconds:
        detail = f"{samples / fs:.6g} s at {fs:g} Hz; this server reads {limits.seconds:g} s at once"
        raise Problem(413, "too_long", detail, "send a piece of it, or run `anyecg backfill` over the archive")
    if samples * signals > limits.samples:
        detail = f"{samples * signals} samples over all signals; this server reads {limits.samples} at once"
        raise Problem(413, "too_many_samples", detail, "send fewer leads, or a lower sampling rate")

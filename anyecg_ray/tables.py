"""Read tables of any size, CSV (also gzipped) or Parquet, in batches and by column.

CSV columns come as text: what a cell means is decided by whoever knows the column. Time stamps are
microseconds throughout, because archives shift their dates into the 2290s and nanoseconds end in 2262.
"""

import csv
import difflib
import io
import zlib
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from anyecg_ray import storage
from anyecg_ray.config import InputError, one_line
from anyecg_ray.schema import TIME

BLOCK = 4 << 20
"""Bytes of CSV read at a time; with the reader's read-ahead it bounds memory, whatever the table's size."""

LONGEST_CELL = 10_000
"""Characters of the longest cell that is believed: beyond it a quote was left open and swallowed what follows."""

PARQUET = (".parquet", ".pq")

_ISO = r"^\d{4}-\d{2}-\d{2}([ T]\d{2}:\d{2}(:\d{2}(\.\d{1,6})?)?)?$"


def search(folders: Sequence[str], name: str) -> str | None:
    """The table `name` or `name`.gz in the first of the folders that has it, or None."""
    for folder in folders:
        for suffix in ("", ".gz"):
            uri = storage.join(folder, name + suffix)
            if storage.exists(uri):
                return uri
    return None


def locate(folders: Sequence[str], name: str) -> str:
    """`search`, raising InputError where there is no such table."""
    uri = search(folders, name)
    if uri is None:
        raise InputError(f"{folders[0]}: no {name} here; give the folder that holds it")
    return uri


def batches(
    uri: str, required: Sequence[str], optional: Sequence[str] = (), malformed: list[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """The named columns, in the order named; an optional one that the table lacks is all null.

    A CSV line with too few or too many cells goes to `malformed` and is otherwise left out.
    Raises InputError where the table cannot be read or a required column is missing, naming it and the mend.
    """
    read = _parquet if uri.endswith(PARQUET) else _csv
    yield from read(uri, required, optional, [] if malformed is None else malformed)


def whole(uri: str, as_text: Sequence[str] = ()) -> pa.Table:
    """All of a table that fits in memory; columns of a CSV, but for `as_text`, have the type that all cells have.

    Raises InputError where it cannot be read as it stands: no row may get lost.
    """
    names, malformed = columns(uri), list[str]()
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"{uri}: column {twice[0] or 'without a name'} is there twice; give each a name of its own")
    found = [batch for batch in batches(uri, names, (), malformed) if len(batch)]
    if malformed:
        raise InputError(f"{uri}: {len(malformed):,} lines have more or fewer cells than the header; mend them")
    if not found:
        raise InputError(f"{uri}: there is no row below the header")
    rows = pa.Table.from_batches(found).unify_dictionaries().combine_chunks()
    if uri.endswith(PARQUET):
        return rows
    return pa.table({n: c if n in as_text else typed(c.combine_chunks()) for n, c in zip(names, rows, strict=True)})


def columns(uri: str) -> list[str]:
    """The names of a table's columns. Raises InputError."""
    with storage.open_input(uri) as file:
        if uri.endswith(PARQUET):
            return list(_parquet_file(file, uri).schema_arrow.names)
        with _uncompressed(file, uri) as stream:
            return _header(stream, uri)


def require(uri: str, present: Sequence[str], required: Sequence[str], optional: Sequence[str] = ()) -> None:
    """Raise InputError where a column is missing, or where an optional one seems to be misspelt."""
    for wanted in (*required, *optional):
        if wanted in present:
            continue
        near = difflib.get_close_matches(wanted, [p for p in present if p not in (*required, *optional)], n=1)
        if near:
            raise InputError(f"{uri}: no column {wanted}; rename column {near[0]} to {wanted}")
        if wanted in required:
            raise InputError(f"{uri}: no column {wanted}; its first line must name the columns")


def _csv(uri: str, required: Sequence[str], optional: Sequence[str], malformed: list[str]) -> Iterator[pa.RecordBatch]:
    present = columns(uri)
    require(uri, present, required)
    wanted = [c for c in (*required, *optional) if c in present]

    def skip(row: Any) -> str:
        malformed.append(row.text[:200])
        return "skip"

    # bytes, not text: one odd byte must not end the run (see texts)
    convert = pa.csv.ConvertOptions(
        include_columns=wanted,
        column_types={c: pa.binary() for c in wanted},
        null_values=[""],
        strings_can_be_null=True,
        quoted_strings_can_be_null=True,
    )
    # component names of MC-MED hold line breaks, within quotes
    parse = pa.csv.ParseOptions(newlines_in_values=True, invalid_row_handler=skip)
    with storage.open_input(uri) as file, _uncompressed(file, uri) as stream:
        try:
            reader = pa.csv.open_csv(stream, pa.csv.ReadOptions(block_size=BLOCK), parse, convert)
            for batch in reader:
                if any((pc.max(pc.binary_length(c)).as_py() or 0) > LONGEST_CELL for c in batch.columns):
                    raise InputError(
                        f"{uri}: a cell of more than {LONGEST_CELL} characters; look for a quote left open"
                    )
                texted = pa.record_batch([texts(c) for c in batch.columns], names=batch.schema.names)
                yield _ordered(texted, required, optional)
        except (pa.ArrowException, OSError, zlib.error, EOFError) as error:
            raise InputError(f"{uri}: not a readable CSV file: {one_line(error, 200)}") from None


def _parquet(
    uri: str, required: Sequence[str], optional: Sequence[str], malformed: list[str]
) -> Iterator[pa.RecordBatch]:
    with storage.open_input(uri) as file:
        table = _parquet_file(file, uri)
        present = list(table.schema_arrow.names)
        require(uri, present, required)
        wanted = [c for c in (*required, *optional) if c in present]
        try:
            for batch in table.iter_batches(batch_size=65536, columns=wanted):
                yield _ordered(batch, required, optional)
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{uri}: not a readable Parquet file: {one_line(error, 200)}") from None


def _ordered(batch: pa.RecordBatch, required: Sequence[str], optional: Sequence[str]) -> pa.RecordBatch:
    nothing = pa.nulls(batch.num_rows, pa.string())
    names = [*required, *optional]
    return pa.record_batch([batch[n] if n in batch.schema.names else nothing for n in names], names=names)


def _uncompressed(file: IO[bytes], uri: str) -> Any:
    raw = pa.PythonFile(file, mode="r")
    return pa.CompressedInputStream(raw, "gzip") if uri.endswith(".gz") else raw


def _header(stream: Any, uri: str) -> list[str]:
    try:
        start = stream.read(1 << 16)
    except (pa.ArrowException, OSError, zlib.error, EOFError) as error:
        raise InputError(f"{uri}: cannot be read: {one_line(error, 200)}") from None
    lines = csv.reader(io.StringIO(start.decode("utf-8-sig", errors="replace"), newline=""))
    header = next(lines, [])
    if not header:
        raise InputError(f"{uri}: is empty; its first line must name the columns")
    return header


def _parquet_file(file: IO[bytes], uri: str) -> Any:
    try:
        return pa.parquet.ParquetFile(file)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{uri}: not a Parquet file: {one_line(error, 200)}") from None


def texts(column: pa.Array) -> pa.Array:
    """Any column as text without blanks around it; bytes that are not UTF-8 become U+FFFD."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    try:
        return pc.utf8_trim_whitespace(column.cast(pa.string()))
    except pa.ArrowInvalid:
        decoded = [None if b is None else b.decode("utf-8", errors="replace").strip() for b in column.to_pylist()]
        return pa.array(decoded, pa.string())


_TYPES = (
    (r"^-?(0|[1-9]\d{0,17})$", pa.int64()),
    (r"^-?(0|[1-9]\d{0,14})(\.\d+)?([eE][+-]\d+)?$", pa.float64()),
    (r"^([Tt]rue|[Ff]alse|TRUE|FALSE)$", pa.bool_()),
    (r"^\d{4}-\d{2}-\d{2}$", pa.date32()),
)
"""What cells look like that can be nothing else. A number that begins with a superfluous 0, or that has more digits
than its type keeps, is an identifier."""


def typed(column: pa.Array) -> pa.Array:
    """A column of text as numbers, truth, dates or times where all of its cells are; else as it is."""
    text = pc.if_else(pc.equal(column, ""), None, column)
    for pattern, kind in _TYPES:
        if pc.all(pc.match_substring_regex(text, pattern)).as_py():
            try:
                return text.cast(kind)
            except pa.ArrowInvalid:  # a day that the calendar does not have
                return column
    if pc.all(pc.match_substring_regex(text, r"^\d{4}-\d{2}-\d{2}[ T]")).as_py():
        read, odd = times(text)
        return column if odd.any() else read
    return column


def identifiers(column: pa.Array) -> pa.Array:
    """Identifiers as text; the `.0` that spreadsheets and pandas add to whole numbers is taken off."""
    return pc.replace_substring_regex(texts(column), r"^(\d+)\.0$", r"\1")


def numbers(column: pa.Array) -> np.ndarray:
    """float64 (n,), NaN where there is no number."""
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_decimal(column.type):
        plain: np.ndarray = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
        return plain
    text = texts(column)
    try:
        cast = pc.if_else(pc.equal(text, ""), None, text).cast(pa.float64())
    except pa.ArrowInvalid:
        cast = pa.array([_number(t) for t in text.to_pylist()], pa.float64())
    result: np.ndarray = cast.to_numpy(zero_copy_only=False)
    return result


def _number(text: str | None) -> float:
    try:
        return float((text or "nan").replace(",", ""))
    except ValueError:
        return float("nan")


def sex(column: pa.Array) -> pa.Array:
    """F or M by a word's first letter, in either case; else null."""
    letter = pc.utf8_upper(pc.utf8_slice_codeunits(texts(column), 0, 1))
    return pc.if_else(pc.is_in(letter, pa.array(["F", "M"])), letter, None)


def times(column: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """(timestamp[us, UTC], bool (n,): a text was there but no time could be read from it).

    ISO 8601 with or without zone; without one it is taken as UTC. Numbers are no times.
    """
    if pa.types.is_timestamp(column.type):
        instant = column.cast(pa.timestamp("us", tz=column.type.tz), safe=False)
        return (instant.cast(TIME) if column.type.tz else pc.assume_timezone(instant, "UTC")), _none(column)
    if pa.types.is_date(column.type):
        return pc.assume_timezone(column.cast(pa.timestamp("us")), "UTC"), _none(column)
    text = texts(column)
    plain = pc.replace_substring_regex(text, "[Zz]$", "")
    usual = pc.fill_null(pc.match_substring_regex(plain, _ISO), False)
    try:
        read = pc.assume_timezone(pc.if_else(usual, plain, None).cast(pa.timestamp("us")), "UTC")
    except pa.ArrowInvalid:  # a day that the calendar does not have
        read, usual = pa.nulls(len(text), TIME), pa.array(np.zeros(len(text), dtype=bool))
    odd = pc.and_(pc.invert(usual), pc.not_equal(pc.fill_null(text, ""), ""))
    if pc.any(odd).as_py():
        read = pc.if_else(odd, pa.array([_time(t) for t in text.to_pylist()], TIME), read)
    return read, pc.and_(odd, pc.is_null(read)).to_numpy(zero_copy_only=False)


def _none(column: pa.Array) -> np.ndarray:
    return np.zeros(len(column), dtype=bool)


@lru_cache(65536)
def _time(text: str | None) -> datetime | None:
    """Whatever ISO form Arrow does not take: offsets, longer fractions."""
    try:
        moment = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)

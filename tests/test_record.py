"""Decoding against wfdb, against the outputs of the WFDB library in C, and against whatever bytes there may be.

Where wfdb-python is wrong a test of its own shows how, and pins what the library in C does: `test_wfdb_...`.
"""

import random
import re
from datetime import UTC, datetime
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import wfdb
from hypothesis import given, settings
from hypothesis import strategies as st

from anyecg_ray import plan, record
from anyecg_ray.header import RecordError, parse_header, parse_headers
from anyecg_ray.record import Record, decode, reads
from anyecg_ray.schema import Status

Ranges = dict[str, tuple[int, int | None]]


def header_of(path: Path) -> str:
    """A header as a manifest has it: with those of its segments."""
    text = path.read_bytes().decode("latin-1")
    segments = dict.fromkeys(s.name for s in parse_header(text).segments)
    beside = [path.parent / f"{name}.hea" for name in segments]
    return "\f".join([text, *(p.read_bytes().decode("latin-1") for p in beside if p.exists())])


def fetched(folder: Path, ranges: Ranges) -> dict[str, bytes]:
    """What storage would give for these ranges; nothing for a file that is not there."""
    blobs = {}
    for name, (start, length) in ranges.items():
        if (folder / name).exists():
            with open(folder / name, "rb") as file:
                file.seek(start)
                blobs[name] = file.read(-1 if length is None else length)
    return blobs


def ours(path: Path, *span: object) -> Record:
    text = header_of(path)
    return decode(text, fetched(path.parent, reads(text, *span)), *span)


def wfdbs(path: Path, *args: object, **more: object) -> np.ndarray:
    return wfdb.rdrecord(str(path.with_suffix("")), *args, **more).p_signal.T


def same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and np.array_equal(a, b, equal_nan=True)


# conformance

WFDB_IS_WRONG = {"041s", "041s02", "binformats"}
"""See the tests below; binformats in spans that do not begin at 0."""

GONE = {"1003", "12726", "drive02", "drive02-no-len", "n16", "n8_evoked_raw_95_F1_R9", "wave_4"}
GONE |= {"3975656_0009", "3975656_0010", "3975656_0011", "s00001-2896-10-10-00-31", "p000878-2137-10-26-16-57"}
"""Records whose signals are not in the data folder, or not all."""


@pytest.mark.parametrize(
    ("folder", "n"),
    [
        ("cinc2021/training", 133),
        ("ptbxl-500/records500", 500),
        ("ptbxl-500/records100", 100),
        ("mitdb/records", 6),
        ("wfdb-python/sample-data", 66),
    ],
)
def test_equals_wfdb(data, folder, n):
    """Every record, whole, and a span of it from no more bytes than it takes."""
    rng = random.Random(folder)
    paths = sorted((data / folder).rglob("*.hea"))
    assert len(paths) == n
    for path in paths:
        if path.stem in GONE or path.stem.endswith("_layout"):
            continue
        got, expected = ours(path), wfdb.rdrecord(str(path.with_suffix("")))
        whole, samples = got.signals, got.signals.shape[1]
        assert got.fs == expected.fs, path
        assert got.leads == tuple(expected.sig_name), path
        assert expected.units[0] is None or got.units == tuple(expected.units), path
        assert path.stem in WFDB_IS_WRONG or same(whole, expected.p_signal.T), path
        start = rng.randrange(samples)
        stop = rng.randrange(start, samples) + 1
        assert same(ours(path, start, stop).signals, whole[:, start:stop]), (path, start, stop)


def test_spans_of_every_format_equal_wfdb(data):
    """Spans that begin and end anywhere in a block of samples."""
    for name in ("binformats", "flacformats", "310derive", "311derive_3", "100_3chan", "mixedsignals", "03700181"):
        path = data / f"wfdb-python/sample-data/{name}.hea"
        header = parse_header(path.read_bytes())
        for start in range(4):
            for stop in (start + 1, start + 2, header.n_samples - 3, header.n_samples):
                got = ours(path, start, stop).signals
                expected = wfdbs(path, sampfrom=start, sampto=stop)
                for k, signal in enumerate(header.signals):
                    assert signal.fmt == "8" or same(got[k], expected[k]), (name, signal.name, start, stop)


def test_headers_without_a_length(data):
    folder = data / "wfdb-python/sample-data"
    for name in ("100", "a103l"):
        assert same(ours(folder / f"{name}-no-len.hea").signals, ours(folder / f"{name}.hea").signals)
        assert same(
            ours(folder / f"{name}-no-len.hea", 1001, None, [1]).signals,
            ours(folder / f"{name}.hea", 1001, None, [1]).signals,
        )
    whole = ours(folder / "flacformats.hea").signals
    text = header_of(folder / "flacformats.hea").replace("200 499", "200")
    assert same(decode(text, fetched(folder, reads(text, 5)), 5).signals, whole[:, 5:])


def test_a_span_of_a_long_record_reads_its_bytes_alone(data):
    paths = [p for p in (data / "cinc2021/training").rglob("*.hea") if parse_header(p.read_bytes()).fs == 1000]
    path = max(paths, key=lambda p: parse_header(p.read_bytes()).n_samples)
    text = header_of(path)
    ((name, (offset, length)),) = reads(text, 20_000, 30_000).items()
    assert (offset, length) == (24 + 20_000 * 12 * 2, 10_000 * 12 * 2)
    assert length < 0.1 * (path.parent / name).stat().st_size
    assert same(ours(path, 20_000, 30_000).signals, wfdbs(path, sampfrom=20_000, sampto=30_000))


def test_leads_are_answered_in_the_order_asked_for(data):
    path = data / "ptbxl-500/records500/00000/00001_hr.hea"
    whole, some = ours(path), ours(path, 0, None, ["V1", 0, "II"])
    assert some.leads == ("V1", "I", "II")
    assert same(some.signals, whole.signals[[6, 0, 1]])
    assert (some.units, some.calibrated) == (("mV",) * 3, (True,) * 3)


@pytest.mark.parametrize(
    ("target", "name", "span", "leads"),
    [
        ("1a", "test01_00s", (0, None), None),
        ("1b", "a103l", (12500, 40000), [2, 0]),
        ("1c", "a103l", (20000, None), [0, 1]),
        ("1d", "3000003_0003", (125, 1000), [1]),
        ("1f.gz", "binformats", (0, None), None),
        ("2b", "100", (1, 10800), [1]),
        ("2c", "100_3chan", (0, None), None),
        ("2d", "310derive", (2, None), None),
        ("2e", "311derive", (1, 978), None),
        ("3b", "s0010_re", (5000, 38000), [13, 0, 4, 8, 3]),
        ("4a", "test01_00s_skewframe", (0, None), None),
        ("4b", "03700181", (0, None), None),
        ("4c", "03700181", (1000, 16000), [0, 2]),
        ("flac.gz", "flacformats", (0, None), None),
        ("multi-fixed-c", "multi-segment/fixed1/v102s", (70000, 80000), [1, 0, 3]),
        ("multi-variable-a", "multi-segment/s00001/s00001-2896-10-10-00-31", (14428365, 14428375), None),
        ("multi-variable-d", "multi-segment/p000878/p000878-2137-10-26-16-57", (3550, 7500), ["PLETH", "II"]),
    ],
)
def test_equals_the_library_in_c(data, target, name, span, leads):
    """Outputs of rdsamp (WFDB 10.5.24), which wfdb-python keeps for its tests: in ADC units, or mV to 8 digits."""
    path = data / f"wfdb-python/sample-data/{name}.hea"
    got = ours(path, *span, leads)
    expected = np.genfromtxt(data / f"wfdb-python/tests/target-output/record-{target}", missing_values="-", ndmin=2).T
    if expected.shape[0] != len(got.leads):
        expected = expected.reshape(len(got.leads), -1)
    n = expected.shape[1]  # rdsamp ends where the first of skewed signals does
    assert n >= got.signals.shape[1] - 4
    if np.array_equal(expected, np.trunc(expected)) and target not in ("1d", "2e"):
        expected = in_units(path, got, expected)
    assert np.allclose(got.signals[:, :n], expected, rtol=0, atol=1e-8, equal_nan=True)


def in_units(path: Path, got: Record, adc: np.ndarray) -> np.ndarray:
    signals = {s.name: s for h in parse_headers(header_of(path)).values() for s in reversed(h.signals) if s.file != "~"}
    scale = [signals[lead] for lead in got.leads]
    invalid = {"80": -128}
    adc = np.where(adc == np.array([[invalid.get(s.fmt, -32768)] for s in scale]), np.nan, adc)
    return np.stack([(a - s.baseline) / s.gain for a, s in zip(adc, scale, strict=True)])


def test_a_record_begins_when_its_span_does(data):
    folder = data / "wfdb-python/sample-data/multi-segment"
    got = ours(folder / "p000878/p000878-2137-10-26-16-57.hea", 3750, 5000)
    assert got.start == datetime(2137, 10, 26, 16, 57, 39, tzinfo=UTC)
    path = data / "wfdb-python/sample-data/03700181.hea"
    began = wfdb.rdrecord(str(path.with_suffix("")), sampfrom=12345).base_datetime
    assert ours(path, 12345).start == began.replace(tzinfo=UTC)
    assert ours(data / "wfdb-python/sample-data/100.hea", 0, 9).start is None
    late = "x 1 500 100000 23:59:59 31/12/9999\nx.dat 16"
    assert decode(late, {"x.dat": bytes(20)}, 90000, 90010).start is None


def test_gaps_are_nan(data):
    """A variable layout: a gap, a segment with one of four leads, a segment with two."""
    got = ours(data / "wfdb-python/sample-data/multi-segment/p000878/p000878-2137-10-26-16-57.hea", 0, 7500)
    assert got.leads == ("PLETH", "II", "V", "ABP")
    assert got.units == ("NU", "mV", "mV", "mmHg")
    there = ~np.isnan(got.signals)
    assert not there[:, :3750].any()
    assert not there[2:].any()
    assert not there[1, :5750].any()
    assert there[0, 3750:].mean() > 0.9
    assert there[1, 5750:].mean() > 0.9


# made by hand


def test_units_that_change_between_segments_are_told():
    text = "m/2 2 500 4\na 2\nb 2\f"
    a = "a 2 500 2\na.dat 16 200/mV 16 0 0 0 0 I\na.dat 16 200/mV 16 0 0 0 0 II"
    b = a.replace("a 2", "b 2").replace("a.dat", "b.dat").replace("200/mV 16 0 0 0 0 II", "0/uV 16 0 0 0 0 II")
    blobs = {"a.dat": np.array([200, 200, 400, 400], "<i2").tobytes(), "b.dat": np.array([1, 2, 3, 4], "<i2").tobytes()}
    got = decode(f"{text}{a}\f{b}", blobs)
    assert got.units == ("mV", plan.MIXED)
    assert got.calibrated == (True, False)
    assert got.signals.tolist() == [[1, 2, 0.005, 0.015], [1, 2, 0.01, 0.02]]
    assert decode(f"{text}{a}\f{b}", blobs, 0, 2).units == ("mV", "mV")


def test_no_gain_is_a_gain_of_200_that_nobody_vouches_for():
    got = decode(
        "x 2 500 2\nx.dat 16 0/mV 16 100 0 0 0 I\nx.dat 16", {"x.dat": np.array([300, 1, 100, 2], "<i2").tobytes()}
    )
    assert got.calibrated == (False, False)
    assert got.signals.tolist() == [[1, 0], [0.005, 0.01]]


def test_blobs_may_be_any_kind_of_bytes_and_longer():
    raw = np.arange(10, dtype="<i2").tobytes()
    for blob in (raw, bytearray(raw), memoryview(raw)):
        assert decode("x 1 500 4\nx.dat 16 1", {"x.dat": blob, "other": b""}).signals.tolist() == [[0, 1, 2, 3]]


# where wfdb-python is wrong


def written(folder: Path, text: str, **files: bytes) -> Path:
    """A record on disk, for wfdb."""
    (folder / "x.hea").write_text(text)
    for name, raw in files.items():
        (folder / f"{name}.dat").write_bytes(raw)
    return folder / "x.hea"


def test_wfdb_takes_every_span_of_format_8_to_begin_at_the_initial_value(data):
    # differences: what a sample is depends on all before, so that all before is read
    path = data / "wfdb-python/sample-data/binformats.hea"
    whole = wfdbs(path)[0]
    assert same(ours(path, 246, 305).signals[0], whole[246:305])
    assert not same(wfdbs(path, sampfrom=246, sampto=305)[0], whole[246:305])


def test_wfdb_averages_the_mark_of_an_invalid_sample_into_its_frame(data):
    # lib/signal.c, rgetvec: one invalid sample makes a frame invalid. The high-resolution output of the library
    # (rdsamp -H) shows the mark.
    folder = data / "wfdb-python"
    path = folder / "sample-data/multi-segment/041s/041s.hea"
    got, theirs = ours(path).signals, wfdbs(path)
    assert np.argwhere(~((got == theirs) | (np.isnan(got) & np.isnan(theirs)))).shape == (1, 2)
    adc = np.genfromtxt(folder / "tests/target-output/record-multi-fixed-d.gz").T.reshape(3, 2000, 4)
    means = np.where((adc == -2048).any(axis=2), np.nan, np.trunc(adc.mean(axis=2)))
    for lead, expected in zip((3, 2, 1), means, strict=True):
        gain, baseline = (20, -1600) if lead == 3 else (2000, 0)
        assert same(got[lead], (expected - baseline) / gain)


def test_leads_that_have_several_samples_in_each_frame_keep_their_own_rate(data):
    folder = data / "wfdb-python"
    path = folder / "sample-data/multi-segment/041s/041s.hea"
    adc = np.genfromtxt(folder / "tests/target-output/record-multi-fixed-d.gz").T.reshape(3, 8000)
    two, mixed = ours(path, 0, None, [2, 1]), ours(path, 0, None, [1, 3])
    assert (two.fs, mixed.fs) == (500, 125)
    assert same(two.signals, np.where(adc == -2048, np.nan, adc)[1:] / 2000)
    assert same(ours(path, 100, 300, [2, 1]).signals, two.signals[:, 400:1200])
    assert same(mixed.signals, ours(path).signals[[1, 3]])


def test_wfdb_cannot_skew_two_signals_differently(tmp_path):
    raw = np.arange(20, dtype="<i2").tobytes()
    text = "x 2 500 10\nx.dat 16:1 1 16 0 0 0 0 I\nx.dat 16:3 1 16 0 0 0 0 II"
    path = written(tmp_path, text, x=raw)
    with pytest.raises(ValueError, match="broadcast"):
        wfdbs(path)
    nan = np.nan
    assert same(ours(path).signals, np.array([[*range(2, 20, 2), nan], [*range(7, 20, 2), nan, nan, nan]], float))
    assert same(ours(path, 5, 8).signals, np.array([[12, 14, 16], [17, 19, nan]]))
    assert same(ours(path, 5, 8, ["I"]).signals, np.array([[12, 14, 16.0]]))


def test_wfdb_counts_skew_in_frames_and_ends_it_in_samples(tmp_path):
    # header(5) counts samples of the signal; and a frame beyond the end has no samples at all
    raw = np.arange(30, dtype="<i2").tobytes()
    path = written(tmp_path, "x 2 500 10\nx.dat 16x2:2 1 16 0 0 0 0 I\nx.dat 16 1 16 0 0 0 0 II", x=raw)
    assert same(ours(path).signals[0], np.array([*range(3, 30, 3), np.nan], float))
    assert wfdbs(path)[0, 0] == 6
    assert wfdbs(path)[0, 8] == 0  # by its own count of two frames, beyond the end


def test_wfdb_cannot_skew_what_is_compressed(data, tmp_path):
    folder = data / "wfdb-python/sample-data"
    text = header_of(folder / "flacformats.hea").replace("516 200", "516:5 200")
    for file in folder.glob("flacformats.d*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    path = written(tmp_path, text)
    with pytest.raises(KeyError, match="516"):
        wfdbs(path)
    whole = ours(folder / "flacformats.hea").signals
    got = ours(path).signals
    assert same(got[1, :-5], whole[1, 5:])
    assert np.isnan(got[1, -5:]).all()
    assert same(ours(path, 100, 200).signals[1], whole[1, 105:205])


def test_wfdb_reads_a_bit_of_format_311_that_belongs_to_no_sample(tmp_path):
    # signal(5): "the remaining bits of each 32-bit integer are unused"
    path = written(tmp_path, "x 1 500 3\nx.dat 311 1", x=(0x3FF << 20 | 1 << 30).to_bytes(4, "little"))
    assert ours(path).signals.tolist() == [[0, 0, -1]]
    assert wfdbs(path)[0, 2] != -1


def test_wfdb_drops_the_micro_of_microvolts(tmp_path):
    path = tmp_path / "x.hea"
    path.write_bytes("x 1 500 2\nx.dat 16 1/µV".encode())
    (tmp_path / "x.dat").write_bytes(bytes(4))
    assert decode(path.read_bytes(), {"x.dat": bytes(4)}).units == ("µV",)
    assert wfdb.rdrecord(str(tmp_path / "x")).units == ["V"]


def test_wfdb_does_not_know_all_numbers(tmp_path):
    path = written(tmp_path, "x 1 500 2\nx.dat 16 1E3(10)/mV 16 0 0 0 0 II", x=bytes(4))
    assert ours(path).signals.tolist() == [[-0.01, -0.01]]
    assert ours(path).leads == ("II",)
    theirs = wfdb.rdrecord(str(path.with_suffix("")))
    assert (theirs.adc_gain, theirs.sig_name) == ([1.0], ["(10)/mV 16 0 0 0 0 II"])


def test_wfdb_takes_an_unknown_length_for_no_samples(tmp_path):
    # header(5): "if this field is zero or missing, the number of samples is unspecified"
    path = written(tmp_path, "x 1 500 0\nx.dat 16 1", x=bytes(4))
    assert ours(path).signals.tolist() == [[0, 0]]
    with pytest.raises(ValueError, match="sampto"):
        wfdbs(path)


def test_wfdb_does_without_an_ecg_for_a_wrong_date(tmp_path):
    path = written(tmp_path, "x 1 500 2 24:00:00 31/02/2020\nx.dat 16 1", x=bytes(4))
    assert ours(path).start is None
    with pytest.raises(ValueError, match="does not match format"):
        wfdbs(path)


def test_wfdb_has_no_gaps_in_a_fixed_layout(tmp_path):
    path = written(tmp_path, "x/3 1 500 7\na 2\n~ 3\nb 2", a=b"\1\0\2\0", b=b"\3\0\4\0")
    for name in "ab":
        (tmp_path / f"{name}.hea").write_text(f"{name} 1 500 2\n{name}.dat 16 1 16 0 0 0 0 II")
    nan = np.nan
    assert same(ours(path).signals, np.array([[1, 2, nan, nan, nan, 3, 4]]))
    with pytest.raises(AttributeError):
        wfdbs(path)


def test_wfdb_forgets_the_units_of_a_lead_that_no_segment_has(data):
    path = data / "wfdb-python/sample-data/multi-segment/s00001/s00001-2896-10-09-01-56.hea"
    assert ours(path).units == ("mV", "mV", "mV", "mmHg")
    assert wfdb.rdrecord(str(path.with_suffix(""))).units == [None] * 4


# bad input


def test_records_whose_signals_are_gone(data):
    paths = {p.stem: p for p in (data / "wfdb-python").rglob("*.hea")}
    for name in sorted(GONE):
        with pytest.raises(RecordError) as caught:
            ours(paths[name])
        assert caught.value.status is Status.MISSING_SIGNAL, name
        assert re.fullmatch(r"\S+: not there|segment \S+: no header", caught.value.detail), name


X = "x 2 500 10\nx.dat 212 200\nx.dat 212 200"


@pytest.mark.parametrize(
    ("text", "blobs", "status", "detail"),
    [
        (X, {}, Status.MISSING_SIGNAL, "x.dat: not there"),
        (X, {"x.dat": bytes(29)}, Status.TRUNCATED, "x.dat: 29 bytes where 30 are needed"),
        (X, {"x.dat": b""}, Status.TRUNCATED, "x.dat: 0 bytes"),
        (X.replace(" 10", ""), {"x.dat": b""}, Status.TOO_SHORT, "x.dat: 0 bytes"),
        (X.replace(" 10", ""), {"x.dat": bytes(2)}, Status.TOO_SHORT, "x.dat: 2 bytes"),
        (X.replace("x.dat", "~"), {}, None, ""),
        (X.replace("x.dat", "~").replace(" 10", ""), {}, Status.TOO_SHORT, "no samples"),
        (X.replace("212", "516"), {"x.dat": bytes(30)}, Status.UNREADABLE, "x.dat is no FLAC file"),
        ("x 1 500 1000000000000\n~ 0 1", {}, Status.UNREADABLE, "1000000000000 samples"),
        ("x 1 500 1000000000000\nx.dat 16", {"x.dat": bytes(9)}, Status.UNREADABLE, "1000000000000 samples"),
        ("x 2 500\na.dat 16\nb.dat 16", {"a.dat": bytes(9), "b.dat": bytes(7)}, Status.TRUNCATED, "b.dat: 3 samples"),
    ],
)
def test_bad_input_says_what_is_wrong(text, blobs, status, detail):
    if status is None:
        assert np.isnan(decode(text, blobs).signals).all()
        return
    with pytest.raises(RecordError) as caught:
        decode(text, blobs)
    assert caught.value.status is status
    assert detail in caught.value.detail


def test_a_short_flac_file(data):
    folder = data / "wfdb-python/sample-data"
    text = header_of(folder / "flacformats.hea").replace("200 499", "200 500")
    with pytest.raises(RecordError, match="ends at sample 499, 500 are needed") as caught:
        decode(text, fetched(folder, reads(text)))
    assert caught.value.status is Status.TRUNCATED


def test_a_flac_file_that_unpacks_to_more_than_memory(data):
    folder = data / "wfdb-python/sample-data"
    text = header_of(folder / "flac_3_constant.hea").replace("250 5600000", "250")
    blobs = fetched(folder, reads(text))
    assert decode(text, blobs, 0, 10).signals[:, 9].tolist() == [0.125, 0.25, 0.375]
    with mock.patch.object(plan, "MAX_VALUES", 1 << 20), mock.patch.object(record, "MAX_VALUES", 1 << 20):
        with pytest.raises(RecordError, match="at most 1048576") as caught:
            decode(text, blobs)
        with pytest.raises(RecordError):
            reads(header_of(folder / "flac_3_constant.hea"))
    assert caught.value.status is Status.UNREADABLE


FUZZED = ["100_3chan", "binformats", "flacformats", "test01_00s_skewframe", "3000003_0003", "a103l-no-len"]
FUZZED += ["multi-segment/041s/041s", "multi-segment/fixed1/v102s", "multi-segment/s00001/s00001-2896-10-09-01-56"]
PIECES = [
    "",
    "0",
    "1",
    "-1",
    "~",
    "x",
    "16",
    "8",
    "212",
    "310",
    "516",
    "1e400",
    "nan",
    "99999999999",
    " ",
    "\n",
    "/",
    ":",
]
PIECES += [
    "999999999999999999999",
    "+",
    "(",
    ")",
    "../",
    "\0",
    "\f",
    "x3",
    ":7",
    "+5",
    "µ",
    "²",
    "#",
    "1/0/0",
    "0:0:0 1/1/1",
]


@st.composite
def mutations(draw, text: str) -> str:
    for _ in range(draw(st.integers(1, 4))):
        tokens = [(m.start(), m.end()) for m in re.finditer(r"[-\w.~]+|\s|\S", text)]
        if not tokens:
            break
        start, end = draw(st.sampled_from(tokens))
        text = text[:start] + draw(st.sampled_from(PIECES)) + text[end if draw(st.booleans()) else start :]
    return text


@pytest.fixture(scope="module")
def cases(data) -> list[tuple[str, dict[str, bytes]]]:
    """Headers and signal files of the kinds there are."""
    paths = [data / f"wfdb-python/sample-data/{name}.hea" for name in FUZZED]
    texts = [header_of(path) for path in paths]
    return [(t, fetched(p.parent, {f: (0, None) for f in reads(t)})) for p, t in zip(paths, texts, strict=True)]


@given(draws=st.data())
@settings(max_examples=400, deadline=None)
def test_whatever_the_bytes_are_the_answer_is_a_record_or_an_error(cases, draws):
    text, files = draws.draw(st.sampled_from(cases))
    header: str | bytes = draws.draw(mutations(text))
    if draws.draw(st.integers(0, 9)) == 0:
        header = text.encode("utf-16")[: len(text)]
    start = draws.draw(st.sampled_from([0, 0, 1, 17, 400]))
    stop = draws.draw(st.sampled_from([None, 401, 402, 450, 450, 10**15]))
    leads = draws.draw(st.sampled_from([None, None, [0], [1, 0], ["II"]]))
    with mock.patch.object(plan, "MAX_VALUES", 1 << 20), mock.patch.object(record, "MAX_VALUES", 1 << 20):
        try:
            asked = reads(header, start, stop, leads)
            blobs = draws.draw(damaged(files, asked))
            got = decode(header, blobs, start, stop, leads)
        except RecordError as error:
            assert error.status in Status  # noqa: PT017
            assert 0 < len(error.detail) < 300  # noqa: PT017
            assert "\n" not in error.detail  # noqa: PT017
            return
    assert got.signals.shape[0] == len(got.leads) == len(got.units) == len(got.calibrated)
    assert 0 < got.signals.size <= 1 << 20
    per_frame, rest = divmod(got.signals.shape[1], 1 if stop is None else stop - start)
    assert (rest, per_frame > 0) == (0, True)  # as many samples for each frame
    assert not np.isinf(got.signals).any()


@st.composite
def damaged(draw, files: dict[str, bytes], asked: Ranges) -> dict[str, bytes]:
    blobs = {}
    for name, (first, n) in asked.items():
        assert not {"..", "", "~"} & set(name.split("/"))
        assert first >= 0
        assert n is None or n > 0
        blob = bytearray(files.get(name, b"fLaC")[first : None if n is None else first + n])
        for at in draw(st.lists(st.integers(0, 500), max_size=3)):
            blob[at : at + 1] = b"\xa5" if at < len(blob) else b""
        blobs[name] = bytes(blob[: draw(st.sampled_from([None, None, None, None, 0, 1, 99, -1]))])
    return blobs

"""Headers as they are written in the wild, and as no one should write them."""

import pickle
from datetime import UTC, datetime

import pytest
import wfdb
from hypothesis import given
from hypothesis import strategies as st

from anyecg_ray.header import DEFAULT_GAIN, Header, RecordError, Segment, Signal, parse_header, parse_headers
from anyecg_ray.schema import Status

LINE = "x.dat 16 200/mV 16 0 5 -7 0 II"


def one(line: str) -> Signal:
    return parse_header(f"x 1 500 100\n{line}\n").signals[0]


def test_every_field_is_read():
    header = parse_header(
        "# first\nx 1 360.5/1000(2) 650000 8:05:04.25 26/10/1994\n\n"
        "x.dat 212x4:8+24 -20.5(-16)/mmHg 12 3 -7 1 0 A B\n#a: b\n"
    )
    when = datetime(1994, 10, 26, 8, 5, 4, 250000, tzinfo=UTC)
    signal = Signal("x.dat", "212", 4, 2, 24, -20.5, -16, "mmHg", True, -7, "A B")
    assert header == Header("x", 360.5, 650000, when, 1, (signal,), (), ("first", "a: b"))


def test_what_is_left_out_has_a_default():
    header = parse_header("x 1\nx.dat 16")
    assert header == Header(
        "x", 250.0, None, None, 1, (Signal("x.dat", "16", 1, 0, 0, DEFAULT_GAIN, 0, "mV", False, 0, ""),), (), ()
    )
    assert not header.variable


def test_no_length_may_also_be_written_as_zero():
    assert parse_header(f"x 1 500 0\n{LINE}").n_samples is None
    assert parse_header(f"x 1 500 0 12:00:00 01/01/2020\n{LINE}").start is not None


@pytest.mark.parametrize(
    ("gain", "expected"),
    [
        ("200", (200, 0, "mV", True)),
        ("1000.0(0)/mV", (1000, 0, "mV", True)),
        ("0", (200, 0, "mV", False)),
        ("0(4)/uV", (200, 4, "uV", False)),
        ("/uV", (200, 0, "uV", False)),
        ("1.052e+04/mV", (10520, 0, "mV", True)),
        ("2.4011e-11/nV", (2.4011e-11, 0, "nV", True)),
        ("1E3/mV", (1000, 0, "mV", True)),  # wfdb-python takes this for a gain of 1
        ("-19.34(3064)/degC", (-19.34, 3064, "degC", True)),
        (".5/mmHg", (0.5, 0, "mmHg", True)),
        ("200/µV", (200, 0, "µV", True)),  # wfdb-python drops what is not ASCII: volts
    ],
)
def test_gain(gain, expected):
    signal = one(f"x.dat 16 {gain}")
    assert (signal.gain, signal.baseline, signal.units, signal.calibrated) == expected


def test_baseline_and_initial_value_default_to_adc_zero():
    signal = one("x.dat 8 200 11 1024")
    assert (signal.baseline, signal.initial) == (1024, 1024)
    assert one("x.dat 16 200(7)/mV 11 1024 995").baseline == 7
    assert one("x.dat 16 200/mV 16 0.0 -96.0 -31563.0 0 V1").name == "V1"


def test_a_name_may_follow_too_few_numbers():
    assert one("x.dat 16 200/mV 16 0 aVF").name == "aVF"
    assert one("x.dat 16 200/mV 16 0 1 2 0 1 lead").name == "1 lead"


@pytest.mark.parametrize(
    ("field", "frames"),
    [("16:3", 3), ("16x2:3", 2), ("16x2:4", 2), ("16x4:1", 0), ("16x4:2", 1), ("16x0:3", 3)],
)
def test_skew_is_told_in_samples_and_applied_in_frames(field, frames):
    # as lib/signal.c rounds it; wfdb-python takes it for frames
    assert one(f"x.dat {field}").skew == frames


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        ("12:04:00 22/09/2182", datetime(2182, 9, 22, 12, 4, tzinfo=UTC)),
        ("23:59:59.123 31/12/2295", datetime(2295, 12, 31, 23, 59, 59, 123000, tzinfo=UTC)),
        ("31:25.894 10/10/2896", datetime(2896, 10, 10, 0, 31, 25, 894000, tzinfo=UTC)),
        ("0:00 01/01/2001", datetime(2001, 1, 1, tzinfo=UTC)),
        ("9.5 1/2/2001", datetime(2001, 2, 1, 0, 0, 9, 500000, tzinfo=UTC)),
        ("12-May-2020 12:33:59", datetime(2020, 5, 12, 12, 33, 59, tzinfo=UTC)),
        ("19:46:25.757", None),
        ("12:00:00 31/02/2020", None),
        ("25:00:00 01/01/2020", None),
        ("12-Foo-2020 12:33:59", None),
        ("garbage", None),
    ],
)
def test_start(when, expected):
    assert parse_header(f"x 1 500 5000 {when}\n{LINE}").start == expected


def test_line_ends_and_encodings():
    assert parse_header(f"x 1 500 9\r\n{LINE}\r\n").signals[0].name == "II"
    assert parse_header(f"\ufeffx 1 500 9\n{LINE}").name == "x"
    assert parse_header(f"x 1 500 9\n{LINE}\n# µ".encode("latin-1")).comments == ("µ",)
    assert parse_header(f"x 1 500 9\n{LINE}\n# µ".encode()).comments == ("µ",)


def test_segments():
    header = parse_header("m/3 2 125 300 0:00 01/01/2001\nlayout 0\n~ 100\na_1 200\n# c")
    assert header.segments == (Segment("layout", 0), Segment("~", 100), Segment("a_1", 200))
    assert header.variable
    assert (header.signals, header.n_signals, header.comments) == ((), 2, ("c",))
    assert not parse_header("m/1 1 125 9\na 9").variable


def test_headers_are_parted_by_form_feeds():
    headers = parse_headers(f"m/2 1 500 4\nx 2\nx 2\n\fx 1 500 2\n{LINE}\n")
    assert list(headers) == ["m", "x"]
    assert headers["x"].signals[0].file == "x.dat"


def test_a_signal_without_samples():
    assert one("~ 0 83/mV 15 0 -16384 0 0 II").file == "~"
    assert one("x.dat 0 83/mV").file == "~"


@pytest.mark.parametrize(
    ("text", "detail"),
    [
        ("", "empty"),
        ("# nothing but this", "empty"),
        ("x", "record line"),
        ("x one 500", "record line"),
        (f"x 1 -500 9\n{LINE}", "record line"),
        (f"x 1 0 9\n{LINE}", "sampling rate"),
        (f"x 1 1e99 9\n{LINE}", "sampling rate"),
        (f"x 1 nan 9\n{LINE}", "record line"),
        (f"x 1 500 -9\n{LINE}", "record line"),
        (f"x 1 500 {10**18 - 1}\n{LINE}", "claims"),
        (f"x 1 500 {'9' * 5000}\n{LINE}", "record line"),
        (f"x 2 500 9\n{LINE}", "promises 2"),
        (f"x 1 500 9\n{LINE}\n{LINE}", "describes 2"),
        ("x 99999999999999999 500 9", "promises"),
        ("x 1 500 9\nx.dat", "signal line"),
        ("x 1 500 9\nx.dat 17 200", "format 17"),
        ("x 1 500 9\nx.dat 16x999999999 200", "samples per frame"),
        (f"x 1 500 9\nx.dat 16+{10**17} 200", "bytes before"),
        ("x 1 500 9\nx.dat 16 1e-99/mV", "gain"),
        ("x 1 500 9\nx.dat 16 nan/mV 16", "signal line"),
        ("x 1 500 9\nx.dat 16-200/mV", "signal line"),
        ("x 1 500 9\n../x.dat 16", "file name"),
        ("x 1 500 9\n/etc/passwd 16", "file name"),
        ("x 1 500 9\na/../../x.dat 16", "file name"),
        ("x 1 500 9\na\\x.dat 16", "file name"),
        ("x 1 500 9\ns3://b/x.dat 16", "file name"),
        ("x 1 500 9\n~/x.dat 16", "file name"),
        ("x 1 500 9\nx\0.dat 16", "file name"),
        ("x 3 500 9\na.dat 16\nb.dat 16\na.dat 16", "do not stand together"),
        ("m/2 1 500 9\na 9", "promises 2"),
        ("m/0 1 500 9", "promises 0"),
        ("m/1 1 500 9\na", "segment line"),
        ("m/1 1 500 9\na -9", "segment line"),
        ("m/1 1 500 9\n../a 9", "segment line"),
        ("m/1 1 500 9\nsub/a 9", "segment line"),  # its own header could not be named so
    ],
)
def test_a_bad_header_says_what_is_wrong(text, detail):
    with pytest.raises(RecordError) as caught:
        parse_header(text)
    assert caught.value.status is Status.UNREADABLE
    assert detail in caught.value.detail
    assert "\n" not in caught.value.detail
    assert len(caught.value.detail) < 200


def test_a_file_may_lie_in_a_folder_below():
    assert one("sub/x.1.dat 16").file == "sub/x.1.dat"


def test_the_error_travels():
    # a Ray task's exception is pickled
    error = pickle.loads(pickle.dumps(RecordError(Status.TRUNCATED, "x.dat: short")))
    assert (error.status, error.detail, str(error)) == (Status.TRUNCATED, "x.dat: short", "x.dat: short")


@given(st.one_of(st.text(), st.binary(), st.text("x./~-+:()0123456789 \n#eE\f", max_size=200)))
def test_any_text_is_a_header_or_an_error(text):
    try:
        headers = parse_headers(text)
    except RecordError as error:
        status: Status | None = error.status
        headers = {}
    else:
        status = None
    assert status is (None if headers else Status.UNREADABLE)
    assert all(h.fs > 0 and (h.segments or len(h.signals) == h.n_signals) for h in headers.values())


def test_equals_wfdb(data):
    """Every header under the data folder, field for field."""
    paths = sorted(data.rglob("*.hea"))
    assert len(paths) > 700
    for path in paths:
        header, other = parse_header(path.read_bytes()), wfdb.rdheader(str(path.with_suffix("")))
        # the same file is there without a length, and layouts have length 0
        assert (header.name, header.fs, header.n_samples) == (other.record_name, other.fs, other.sig_len or None), path
        assert list(header.comments) == other.comments, path
        if "cinc2021" not in path.parts:  # whose dates wfdb ignores
            assert (header.start and header.start.replace(tzinfo=None)) == other.base_datetime, path
        if header.segments:
            assert [s.name for s in header.segments] == other.seg_name, path
            assert [s.n_samples for s in header.segments] == other.seg_len, path
            continue
        for k, signal in enumerate(header.signals):
            assert (
                signal.file,
                signal.fmt,
                signal.samples_per_frame,
                signal.skew,
                signal.byte_offset,
                signal.gain,
                signal.baseline,
                signal.units,
                signal.initial,
                signal.name,
            ) == (
                other.file_name[k],
                other.fmt[k],
                other.samps_per_frame[k],
                other.skew[k] or 0,
                other.byte_offset[k] or 0,
                other.adc_gain[k],
                other.baseline[k],
                other.units[k],
                other.init_value[k] or 0,
                other.sig_name[k] or "",
            ), path

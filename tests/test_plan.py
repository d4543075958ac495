"""Which bytes a span asks for."""

import pytest

from anyecg_ray.formats import BLOCKS, FLAC
from anyecg_ray.header import RecordError, parse_header
from anyecg_ray.plan import MAX_VALUES, samples_of
from anyecg_ray.record import reads
from anyecg_ray.schema import Status


def header(*lines: str, n: int | None = 1000, fs: float = 500) -> str:
    return f"x {len(lines)} {fs}{'' if n is None else f' {n}'}\n" + "\n".join(lines)


def status(*args: object, **more: object) -> Status:
    with pytest.raises(RecordError) as caught:
        reads(*args, **more)
    return caught.value.status


@pytest.mark.parametrize(
    ("fmt", "expected"),
    [
        ("16", (24 + 40, 60)),
        ("61", (24 + 40, 60)),
        ("24", (24 + 60, 90)),
        ("32", (24 + 80, 120)),
        ("80", (24 + 20, 30)),
        ("8", (24, 50)),  # sums of all before
        ("212", (24 + 30, 45)),
        ("310", (24 + 24, 44)),  # samples 18 to 49 of 50: ten blocks and two samples
        ("311", (24 + 24, 43)),
        ("516", (0, None)),
    ],
)
def test_a_span_of_two_signals(fmt, expected):
    text = header(f"a.dat {fmt}+24", f"a.dat {fmt}+24")
    assert reads(text, 10, 25) == {"a.dat": expected}


def test_one_lead_needs_its_file_alone():
    text = header("a.dat 16 200 16 0 0 0 0 I", "b.dat 212 200 12 0 0 0 0 II", "b.dat 212 200 12 0 0 0 0 V1")
    assert reads(text, 0, 100, ["II"]) == {"b.dat": (0, 300)}
    assert reads(text, 0, 100, [0]) == {"a.dat": (0, 200)}
    assert reads(text, 0, 100) == {"a.dat": (0, 200), "b.dat": (0, 300)}
    assert status(text, 0, 100, ["V2"]) is Status.MISSING_LEAD
    assert status(text, 0, 100, [3]) is Status.MISSING_LEAD
    assert status(text, 0, 100, [-1]) is Status.MISSING_LEAD
    assert status(text, 0, 100, []) is Status.MISSING_LEAD


def test_frames_and_skew():
    text = header("a.dat 16x4:8 200 16 0 0 0 0 I", "a.dat 16 200 16 0 0 0 0 II")
    assert reads(text, 100, 200) == {"a.dat": (1000, 1020)}
    # the file ends at 1,000; and where nothing skewed is wanted, nothing more is read
    assert reads(text, 900, 999) == {"a.dat": (9000, 1000)}
    assert reads(text, 100, 200, ["II"]) == {"a.dat": (1000, 1000)}


def test_a_header_without_length_reads_what_there_is():
    text = header("a.dat 212", "a.dat 212", n=None)
    assert reads(text) == {"a.dat": (0, None)}
    assert reads(text, 11) == {"a.dat": (33, None)}
    assert reads(text, 11, 12) == {"a.dat": (33, 3)}


@pytest.mark.parametrize(
    ("start", "stop", "expected"),
    [
        (0, 1001, Status.TRUNCATED),
        (1000, None, Status.TOO_SHORT),
        (10, 10, Status.TOO_SHORT),
        (20, 10, Status.TOO_SHORT),
        (-1, 10, Status.UNREADABLE),
    ],
)
def test_a_span_that_is_not_in_the_record(start, stop, expected):
    assert status(header("a.dat 16"), start, stop) is expected


def test_no_span_is_larger_than_memory():
    text = header("a.dat 16", "a.dat 16", n=10**12)
    assert reads(text, 10**11, 10**11 + MAX_VALUES // 2) == {"a.dat": (4 * 10**11, 2 * MAX_VALUES)}
    assert status(text, 0, MAX_VALUES // 2 + 1) is Status.UNREADABLE
    assert status(text) is Status.UNREADABLE


def test_a_file_has_one_format():
    assert status(header("a.dat 16", "a.dat 212")) is Status.UNREADABLE
    assert status(header("a.dat 516", "a.dat 516x2")) is Status.UNREADABLE


def test_no_signals():
    assert status("x 0 500 9") is Status.MISSING_LEAD
    assert reads(header("~ 0 200", n=9)) == {}


FIXED = "m/3 2 500 30\na 10\n~ 5\nb 15\f"
A = "a 2 500 10\na.dat 16 200 16 0 0 0 0 I\na.dat 16 200 16 0 0 0 0 II\f"
B = "b 2 500 15\nb.dat 16 200 16 0 0 0 0 I\nb.dat 16 200 16 0 0 0 0 II"


def test_segments_that_touch_the_span_are_read():
    assert reads(FIXED + A + B) == {"a.dat": (0, 40), "b.dat": (0, 60)}
    assert reads(FIXED + A + B, 8, 17) == {"a.dat": (32, 8), "b.dat": (0, 8)}
    # whose headers are the only ones needed
    assert reads(FIXED + B, 20, 30) == {"b.dat": (20, 40)}
    assert status(FIXED + B, 8, 17) is Status.MISSING_SIGNAL
    assert status(FIXED + A + B, 11, 14) is Status.NON_FINITE
    assert status(FIXED + A + B, 11, 31) is Status.TRUNCATED


def test_segments_of_one_file_share_a_range():
    text = "m/2 1 500 20\na 10\nb 10\fa 1 500 10\nx.dat 16\fb 1 500 10\nx.dat 16+100"
    assert reads(text, 5, 12) == {"x.dat": (10, 94)}
    assert reads(text.replace("x.dat 16+100", "x.dat 516"), 5, 12) == {"x.dat": (0, None)}


def test_segments_that_do_not_fit_together():
    assert status(FIXED + A + B.replace("b 2 500", "b 2 250")) is Status.UNREADABLE
    assert status(FIXED + A + B.replace("0 II", "0 V1")) is Status.UNREADABLE
    assert status(FIXED + A + "b/1 2 500 15\na 15") is Status.UNREADABLE
    # a segment shorter than its master says
    assert status(FIXED + A + B.replace("b 2 500 15", "b 2 500 14")) is Status.TRUNCATED
    assert status(FIXED.replace("30", "31") + A + B) is Status.TRUNCATED


LAYOUT = (
    "m/3 2 500 20\nlayout 0\n~ 5\na 15\flayout 3 500 0\n~ 0 1 1 0 0 0 0 V1\n~ 0 1 1 0 0 0 0 II\n~ 0 1 1 0 0 0 0 X\f"
)


def test_a_variable_layout():
    a = A.replace("a 2 500 10", "a 2 500 15").removesuffix("\f")
    assert reads(LAYOUT + a) == {"a.dat": (0, 60)}
    assert reads(LAYOUT + a, leads=["V1", "X"]) == {}
    assert reads(LAYOUT.removesuffix("\f"), 0, 5) == {}
    assert status("m/2 2 500 5\nlayout 0\na 5\f" + a) is Status.MISSING_SIGNAL


def test_samples_of_a_file(data):
    """What the sizes say is what the headers do, but where a file is padded to whole blocks."""
    for path in [*data.glob("mitdb/records/*.hea"), *data.glob("wfdb-python/sample-data/*.hea")]:
        told = parse_header(path.read_bytes())
        for file in {s.file for s in told.signals if (path.parent / s.file).exists()}:
            n = samples_of(told, file, (path.parent / file).stat().st_size)
            if any(s.fmt in FLAC for s in told.signals):
                assert n is None
            elif told.n_samples:
                padding = max(len(BLOCKS[s.fmt]) for s in told.signals) - 1
                assert told.n_samples <= n <= told.n_samples + padding, path
    no_length = parse_header((data / "wfdb-python/sample-data/a103l-no-len.hea").read_bytes())
    assert samples_of(no_length, "a103l.mat", 24 + 82500 * 6) == 82500
    assert samples_of(no_length, "a103l.mat", 3) == 0
    assert samples_of(no_length, "other", 3) is None

"""Sample formats against a slow reading of signal(5), bit by bit."""

import io
import re

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from anyecg_ray.formats import BLOCKS, FORMATS, INVALID, FormatError, bytes_of, samples_in, unpack, unpack_flac

BITS = {"8": 8, "80": 8, "16": 16, "61": 16, "160": 16, "24": 24, "32": 32, "212": 12, "310": 10, "311": 10}


def slowly(fmt: str, raw: bytes) -> list[int]:
    """Every sample whose bytes are all there, as signal(5) describes them."""
    words = {"16": 2, "8": 1, "80": 1, "160": 2, "61": 2, "24": 3, "32": 4}
    if fmt in words:
        n, order = words[fmt], "big" if fmt == "61" else "little"
        offset = {"80": 0x80, "160": 0x8000}.get(fmt, 0)
        pieces = [raw[i : i + n] for i in range(0, len(raw) - n + 1, n)]
        return [int.from_bytes(p, order, signed=not offset) - offset for p in pieces]
    block = BLOCKS[fmt]
    out = []
    for at in range(0, len(raw), block[-1]):
        b = raw[at : at + block[-1]]
        full = b + bytes(block[-1] - len(b))
        if fmt == "212":
            values = [full[0] | (full[1] & 0x0F) << 8, full[2] | (full[1] >> 4) << 8]
        elif fmt == "310":
            first, second = int.from_bytes(full[:2], "little"), int.from_bytes(full[2:], "little")
            values = [first >> 1 & 0x3FF, second >> 1 & 0x3FF, first >> 11 | second >> 11 << 5]
        else:
            word = int.from_bytes(full, "little")
            values = [word >> 10 * k & 0x3FF for k in range(3)]
        out += values[: sum(n <= len(b) for n in block)]
    half = 1 << (BITS[fmt] - 1)
    return [v - 2 * half if v >= half else v for v in out]


@given(st.sampled_from(sorted(BLOCKS)), st.binary(max_size=50))
def test_unpack(fmt, raw):
    expected = slowly(fmt, raw)
    n = samples_in(fmt, len(raw))
    assert unpack(fmt, raw, n).tolist() == expected
    # and from no more bytes than it takes
    assert bytes_of(fmt, n) <= len(raw)
    assert unpack(fmt, memoryview(raw)[: bytes_of(fmt, n)], n).tolist() == expected


@given(st.sampled_from(sorted(BLOCKS)), st.integers(0, 10**15))
def test_bytes_and_samples_agree(fmt, n):
    # two samples of format 310 lie in four bytes, and so does the third
    assert samples_in(fmt, bytes_of(fmt, n)) == n + (fmt == "310" and n % 3 == 2)
    assert n == 0 or samples_in(fmt, bytes_of(fmt, n) - 1) < n


def test_the_lowest_value_is_what_is_not_there():
    assert INVALID.keys() == FORMATS - {"8"}
    for fmt in BLOCKS.keys() - {"8"}:
        assert INVALID[fmt] == -(1 << (BITS[fmt] - 1))


def flac(samples: np.ndarray, subtype: str) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, 96000, subtype, format="FLAC")
    return file.getvalue()


@pytest.mark.parametrize(("fmt", "bits"), [("508", 8), ("516", 16), ("524", 24), ("516", 8), ("524", 16)])
def test_flac(fmt, bits):
    rng = np.random.default_rng(0)
    samples = rng.integers(-(1 << (bits - 1)), 1 << (bits - 1), (5000, 3))
    shifted = (samples << (8 if bits != 16 else 0)).astype(np.int32 if bits == 24 else np.int16)
    raw = flac(shifted, {8: "PCM_S8", 16: "PCM_16", 24: "PCM_24"}[bits])
    assert np.array_equal(unpack_flac(fmt, raw, 3, 0, 5000), samples)
    assert np.array_equal(unpack_flac(fmt, memoryview(raw), 3, 1234, 4321), samples[1234:4321])
    assert np.array_equal(unpack_flac(fmt, raw, 3, 4000, 9999), samples[4000:])
    assert unpack_flac(fmt, raw, 3, 9999, 12345).shape == (0, 3)


@pytest.mark.parametrize(
    ("fmt", "raw", "told"),
    [
        ("516", b"", "no FLAC file"),
        ("516", b"RIFF1234", "no FLAC file"),
        ("516", b"fLaC", "no FLAC file that can be read"),
        ("508", flac(np.zeros((9, 2), np.int16), "PCM_16"), "PCM_16, which is not format 508"),
        ("516", flac(np.zeros((9, 3), np.int16), "PCM_16"), "3 channels, the header says 2"),
    ],
)
def test_what_is_no_such_flac_file(fmt, raw, told):
    with pytest.raises(FormatError, match=re.escape(told)):
        unpack_flac(fmt, raw, 2, 0, 9)


@given(st.data())
def test_a_damaged_flac_file_is_an_error_or_short(data):
    raw = bytearray(flac(np.arange(4096, dtype=np.int16).reshape(-1, 2), "PCM_16"))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(4, len(raw) - 1))] = data.draw(st.integers(0, 255))
    del raw[data.draw(st.integers(4, len(raw))) :]
    try:
        samples = unpack_flac("516", raw, 2, 0, 2048)
    except FormatError as error:
        samples = np.empty((0, 2), np.int16)
        assert str(error)  # noqa: PT017
    assert samples.shape[1] == 2
    assert len(samples) <= 2048

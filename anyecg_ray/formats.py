"""The sample formats of WFDB signal files: bytes to ADC units, vectorised, one function a format.

Samples of some formats share bytes, in blocks of two or three, so that a read has to begin where a block does.
Source: signal(5) of the WFDB library, and its lib/signal.c.
"""

import io
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.signedinteger]

BLOCKS: Mapping[str, tuple[int, ...]] = {
    **{"8": (1,), "80": (1,)},
    **{"16": (2,), "61": (2,), "160": (2,)},
    **{"24": (3,), "32": (4,)},
    **{"212": (2, 3), "310": (2, 4, 4), "311": (2, 3, 4)},
}
"""Bytes that hold the first, the first two, ... samples of a block."""

FLAC = ("508", "516", "524")
"""Formats of which no byte can be understood without those before."""

FORMATS = frozenset([*BLOCKS, *FLAC])

INVALID: Mapping[str, int] = {
    **{"80": -(1 << 7), "508": -(1 << 7)},
    **{"310": -(1 << 9), "311": -(1 << 9), "212": -(1 << 11)},
    **{"16": -(1 << 15), "61": -(1 << 15), "160": -(1 << 15), "516": -(1 << 15)},
    **{"24": -(1 << 23), "524": -(1 << 23), "32": -(1 << 31)},
}
"""What stands for a sample that is not there; format 8 has nothing for it."""

CHUNK = 1 << 20
"""Frames of a FLAC file that are decoded at a time: what a stream claims to hold is not allocated at once."""


class FormatError(Exception):
    """Bytes that are not what their format says."""


def bytes_of(fmt: str, samples: int) -> int:
    """Bytes that hold so many samples, counted from the start of a block."""
    block = BLOCKS[fmt]
    whole, rest = divmod(samples, len(block))
    return whole * block[-1] + (block[rest - 1] if rest else 0)


def samples_in(fmt: str, size: int) -> int:
    """Samples that lie whole in so many bytes, counted from the start of a block."""
    block = BLOCKS[fmt]
    whole, rest = divmod(size, block[-1])
    return whole * len(block) + sum(n <= rest for n in block)


def checksum(samples: Ints) -> int:
    """What a header has of a signal: the sum of its samples as a signed 16-bit number."""
    return (int(samples.sum(dtype=np.int64)) + 32768) % 65536 - 32768


def unpack(fmt: str, raw: bytes | memoryview, samples: int) -> Ints:
    """The first samples of some bytes, which begin with a block: ADC units, for format 8 differences of them.

    raw: at least bytes_of(fmt, samples).
    """
    block = BLOCKS[fmt]
    n_blocks = -(-samples // len(block))
    missing = n_blocks * block[-1] - len(raw)
    if missing > 0:  # the last block of a file may be cut
        raw = bytes(raw) + bytes(missing)
    return _UNPACK[fmt](raw, n_blocks)[:samples]


def _8(raw: bytes | memoryview, n: int) -> Ints:
    return np.frombuffer(raw, "<i1", n)


def _80(raw: bytes | memoryview, n: int) -> Ints:
    return (np.frombuffer(raw, "<u1", n) ^ np.uint8(0x80)).view(np.int8)


def _16(raw: bytes | memoryview, n: int) -> Ints:
    return np.frombuffer(raw, "<i2", n)


def _61(raw: bytes | memoryview, n: int) -> Ints:
    return np.frombuffer(raw, ">i2", n)


def _160(raw: bytes | memoryview, n: int) -> Ints:
    return (np.frombuffer(raw, "<u2", n).astype(np.uint16) ^ np.uint16(0x8000)).view(np.int16)


def _24(raw: bytes | memoryview, n: int) -> Ints:
    shifted = np.zeros((n, 4), np.uint8)
    shifted[:, 1:] = np.frombuffer(raw, np.uint8, 3 * n).reshape(n, 3)
    # the highest byte is the last of four: shifting back keeps the sign
    return shifted.reshape(-1).view("<i4") >> 8


def _32(raw: bytes | memoryview, n: int) -> Ints:
    return np.frombuffer(raw, "<i4", n)


def _212(raw: bytes | memoryview, n: int) -> Ints:
    low, middle, high = np.frombuffer(raw, np.uint8, 3 * n).reshape(n, 3).astype(np.uint16).T
    out = np.empty((n, 2), np.int16)
    # each sample in the upper 12 bits, so that shifting back keeps the sign
    out[:, 0] = ((middle << 12) | (low << 4)).view(np.int16) >> 4
    out[:, 1] = (((middle & 0xF0) << 8) | (high << 4)).view(np.int16) >> 4
    return out.reshape(-1)


def _310(raw: bytes | memoryview, n: int) -> Ints:
    first, second = np.frombuffer(raw, "<u2", 2 * n).reshape(n, 2).astype(np.uint16).T
    out = np.empty((n, 3), np.int16)
    out[:, 0] = (first << 5).view(np.int16) >> 6
    out[:, 1] = (second << 5).view(np.int16) >> 6
    # the third sample is what is left of both words
    out[:, 2] = (((first >> 5) & 0x07C0) | (second & 0xF800)).view(np.int16) >> 6
    return out.reshape(-1)


def _311(raw: bytes | memoryview, n: int) -> Ints:
    word = np.frombuffer(raw, "<u4", n).astype(np.uint32)
    out = np.empty((n, 3), np.int16)
    for k in range(3):
        out[:, k] = (word << (22 - 10 * k)).view(np.int32) >> 22
    return out.reshape(-1)


_UNPACK: Mapping[str, Callable[[bytes | memoryview, int], Ints]] = {
    **{"8": _8, "16": _16, "24": _24, "32": _32, "61": _61, "80": _80, "160": _160},
    **{"212": _212, "310": _310, "311": _311},
}


def unpack_flac(fmt: str, raw: bytes | memoryview, channels: int, start: int, stop: int) -> Ints:
    """Samples [start, stop) of a FLAC file, as (samples, channels); fewer where it ends before.

    Raises FormatError where it is none, or has other channels or more bits than its format says.
    """
    # loads a shared library that most archives never need
    import soundfile  # type: ignore[import-untyped]

    if bytes(raw[:4]) != b"fLaC":
        raise FormatError("is no FLAC file")
    try:
        with soundfile.SoundFile(io.BytesIO(raw)) as file:
            bits = {"PCM_S8": 8, "PCM_16": 16, "PCM_24": 24}.get(file.subtype, 0)
            if not 0 < bits <= int(fmt) - 500:
                raise FormatError(f"holds {file.subtype}, which is not format {fmt}")
            if file.channels != channels:
                raise FormatError(f"has {file.channels} channels, the header says {channels}")
            if start >= file.frames:
                return np.empty((0, channels), np.int16)
            file.seek(start)
            parts = _flac_chunks(file, "int32" if bits == 24 else "int16", stop - start)
    except (RuntimeError, ValueError) as error:  # LibsndfileError is a RuntimeError
        raise FormatError(f"is no FLAC file that can be read: {error}") from None
    samples = np.concatenate(parts)
    return samples if bits == 16 else samples >> 8  # which soundfile shifted left


def _flac_chunks(file: Any, dtype: str, n: int) -> list[Ints]:
    parts = [np.empty((0, file.channels), dtype)]
    have = 0
    while have < n:
        asked = min(CHUNK, n - have)
        parts.append(file.read(asked, dtype=dtype, always_2d=True))
        have += len(parts[-1])
        if len(parts[-1]) < asked:
            break
    return parts

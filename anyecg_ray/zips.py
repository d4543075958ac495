"""Members of a zip file as byte ranges of it, so that an archive that came zipped is read where it lies.

`archive/waveforms_0xx.zip/a/b.dat` is the member a/b.dat of the zip file before it. A zip's own directory is read
once, by zipfile; a member is one range of the file, stored as it is or deflated. Nothing here knows where a zip lies.
"""

import struct
import zipfile
import zlib
from typing import IO, NamedTuple

MARK = ".zip/"
"""What parts a zip's location from a member's path."""

LOCAL = struct.Struct("<4s22xHH")
"""What stands before a member's bytes: a signature, and the lengths of its name and of an extra field after it."""

EXTRA = 512
"""Bytes that are read for the extra field, whose length the directory does not tell; times and owners take 50."""


class DamagedZip(Exception):
    """A zip, or a member of it, that cannot be read; str() is one line."""


class Member(NamedTuple):
    """One file in a zip."""

    at: int
    """Where its local header begins."""
    name: int
    """Bytes of its name."""
    packed: int
    """Bytes in the zip."""
    size: int
    """Bytes of the file."""
    method: int
    crc: int

    def place(self, offset: int, length: int | None) -> tuple[int, int]:
        """Offset and length in the zip of what must be read for these bytes of the file."""
        stored = self.method == zipfile.ZIP_STORED and length is not None
        body = min(offset + (length or 0), self.packed) if stored else self.packed
        return self.at, LOCAL.size + self.name + EXTRA + body

    def taken(self, raw: bytes, offset: int, length: int | None) -> bytes:
        """These bytes of the file, from what place() named. Raises DamagedZip."""
        end = self.size if length is None else min(offset + length, self.size)
        body = self._body(raw)
        if self.method == zipfile.ZIP_STORED:
            file = bytes(body[:end])
        elif self.method == zipfile.ZIP_DEFLATED:
            file = _inflated(body, end)
        else:
            raise DamagedZip("it is encrypted, or compressed in a way that is not read here; unpack it")
        if len(file) < end or (end == self.size and zlib.crc32(file) != self.crc):
            raise DamagedZip("its bytes are not those that the zip's directory tells of")
        return file[offset:]

    def _body(self, raw: bytes) -> memoryview:
        signature, name, extra = LOCAL.unpack_from(raw) if len(raw) >= LOCAL.size else (b"", 0, 0)
        if signature != b"PK\3\4" or extra > EXTRA:
            raise DamagedZip("its local header is not that of a zip's member")
        return memoryview(raw)[LOCAL.size + name + extra :][: self.packed]


def _inflated(body: memoryview, end: int) -> bytes:
    # no more than the directory says there is: what inflates to more is cut off there
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(body, end) if end else b""
    except zlib.error as error:
        raise DamagedZip(f"it cannot be inflated ({error})") from None


def parted(path: str) -> tuple[str, str]:
    """Location of the zip, and the member's path in it."""
    zipped, _, member = path.partition(MARK)
    return zipped + MARK[:-1], member


def directory(file: IO[bytes]) -> dict[str, Member]:
    """What a zip holds, by path. Raises DamagedZip."""
    try:
        with zipfile.ZipFile(file) as opened:
            return {i.filename: _member(i) for i in opened.infolist() if not i.is_dir()}
    # a file of an object store says ValueError where a disk's would say OSError of a place before its start
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise DamagedZip(f"not a zip that can be read ({error})") from None


def _member(info: zipfile.ZipInfo) -> Member:
    encrypted = info.flag_bits & 1
    method = -1 if encrypted else info.compress_type
    name = len(info.orig_filename.encode("utf-8" if info.flag_bits & 0x800 else "cp437"))
    return Member(info.header_offset, name, info.compress_size, info.file_size, method, info.CRC)

"""Patients' identifiers that are planted in the tests' archives: no log of any run, and nothing it says, may hold one.

conftest.py searches the logs of every Ray that the tests have started, once all tests are over.
"""

from collections.abc import Iterable
from pathlib import Path

PLANTED = "ZEBRA7731"
"""Part of the paths of records, and so of their ids, wherever an archive is made of copies."""


def naming(folders: Iterable[Path], names: Iterable[str] = (PLANTED,)) -> list[Path]:
    """Files below the folders that hold one of the names."""
    wanted = [name.encode() for name in names]
    files = [p for folder in folders for p in Path(folder).rglob("*") if p.is_file() and not p.is_symlink()]
    assert files, f"no files in {[str(f) for f in folders]}"
    return [file for file in files if _holds(file.read_bytes(), wanted)]


def _holds(text: bytes, names: list[bytes]) -> bool:
    return any(name in text for name in names)

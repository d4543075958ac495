"""Patients' identifiers that are planted in the tests' archives: no log of any run, and nothing it says, may hold one.

conftest.py searches the logs of every Ray that the tests have started, once all tests of its process are over; what
another process of pytest still runs may lose files meanwhile.
"""

import os
from collections.abc import Iterable
from pathlib import Path

PLANTED = "ZEBRA7731"
"""Part of the paths of records, and so of their ids, wherever an archive is made of copies."""


def naming(folders: Iterable[Path], names: Iterable[str] = (PLANTED,)) -> list[Path]:
    """Files below the folders that hold one of the names."""
    wanted = [name.encode() for name in names]
    files = [Path(at, name) for folder in folders for at, _, held in os.walk(folder) for name in held]
    files = [file for file in files if file.is_file() and not file.is_symlink()]
    assert files, f"no files in {[str(f) for f in folders]}"
    return [file for file in files if _holds(file, wanted)]


def _holds(file: Path, names: list[bytes]) -> bool:
    try:
        text = file.read_bytes()
    except FileNotFoundError:  # removed since it was listed
        return False
    return any(name in text for name in names)

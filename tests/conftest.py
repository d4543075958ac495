"""Shared fixtures: where the real ECGs lie, and a Ray that several tests share."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def data() -> Path:
    """Folder of openly licensed real ECGs: $ANYECG_TEST_DATA, by default ../shared/data beside the checkout."""
    folder = Path(os.environ.get("ANYECG_TEST_DATA", ROOT.parent / "shared" / "data"))
    if folder.is_dir():
        return folder.resolve()
    message = f"no test data at {folder}: set ANYECG_TEST_DATA"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="session")
def golden(data: Path) -> Path:
    """Folder of golden arrays that preprocessing and network must reproduce: beside the data."""
    return data.parent / "golden"

"""Small JSON files in storage: job descriptions, leases and records of runs, which a person may open."""

import json
from typing import Any

from anyecg_ray import storage


def read(uri: str) -> Any:
    """What the file says, None where there is none. Raises StorageError, and ValueError where it is no JSON."""
    try:
        return json.loads(storage.read_bytes(uri))
    except storage.MissingObject:
        return None


def write(uri: str, content: Any) -> None:
    """Write it so that a reader sees all of it or none; what JSON does not know, as text. Raises StorageError."""
    storage.write_atomic(uri, (json.dumps(content, indent=2, default=str) + "\n").encode())

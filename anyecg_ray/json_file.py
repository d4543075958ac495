"""Small JSON files in storage: job descriptions, leases and records of runs, which a person may open."""

import json
from collections.abc import Mapping
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


def differing(told: Mapping[str, Any], before: Mapping[str, Any]) -> str:
    """What of a job is not as it was written down before: "manifest differs"; empty where all is the same.

    The manifest is told by the digests of its `row_groups`, to which some may have been added.
    """
    names = [name for name in told if name != "row_groups" and told[name] != before.get(name)]
    if told["row_groups"][: len(before["row_groups"])] != before["row_groups"]:
        names.append("manifest")
    return f"{', '.join(names)} differ{'s' if len(names) == 1 else ''}" if names else ""

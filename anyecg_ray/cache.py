"""What a machine learns once about a model and keeps: in ANYECG_CACHE, else ~/.cache/anyecg_ray.

Names are fingerprints of all that a content depends on, so that nothing in there is ever wrong, only unused.
"""

import json
import logging
import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from anyecg_ray import __version__, storage
from anyecg_ray.config import fingerprint
from anyecg_ray.machine import processor, version

log = logging.getLogger(__name__)


def place(kind: str, depends_on: list[Any], suffix: str) -> Path:
    """Where something is kept that depends on this version and on what is given."""
    folder = Path(os.environ.get("ANYECG_CACHE", Path.home() / ".cache" / "anyecg_ray"))
    return folder / f"{kind}-{fingerprint([__version__, *depends_on])}{suffix}"


def number(depends_on: list[Any], measure: Callable[[], float]) -> float:
    """A number that this machine has measured before, or measures now; it depends on processor and libraries too."""
    path = place("number", [*depends_on, *_machine()], ".json")
    try:
        return float(json.loads(path.read_text()))
    except (OSError, ValueError):
        found = measure()
    try:
        storage.write_atomic(str(path), json.dumps(found).encode())
    except storage.StorageError as error:
        log.warning("cannot keep what was measured in %s (%s); every start measures it again", path.parent, error)
    return found


@lru_cache
def _machine() -> tuple[str, ...]:
    """The processor, and the versions of what computes."""
    return (*processor(), *(f"{name} {version(name)}" for name in ("torch", "openvino", "numpy")))

"""A set of record ids that stays small: 16 bytes each, where a Python set of strings takes 150.

Ids are kept as 128-bit hashes. Among 10 million of them two fall together with a probability of 10⁻²⁵.
"""

from collections.abc import Iterable
from hashlib import blake2b

import numpy as np


def hashes(ids: Iterable[str]) -> np.ndarray:
    """(n,) of 16 bytes each."""
    digests = [blake2b(i.encode("utf-8", "surrogateescape"), digest_size=16).digest() for i in ids]
    return np.array(digests, dtype="S16")


class IdSet:
    """Ids that can be added to and asked for, both many at a time."""

    def __init__(self) -> None:
        # sorted, each at least twice as long as the next: an id is merged only as often as there are levels
        self._levels: list[np.ndarray] = []

    def add(self, new: np.ndarray) -> None:
        """Add `hashes` of ids."""
        if len(new):
            self._levels.append(np.sort(new))
        while len(self._levels) > 1 and len(self._levels[-2]) < 2 * len(self._levels[-1]):
            merged = np.concatenate([self._levels.pop(), self._levels.pop()])
            merged.sort(kind="stable")
            self._levels.append(merged)

    def contains(self, asked: np.ndarray) -> np.ndarray:
        """(n,) bool: which of these `hashes` are in the set."""
        found = np.zeros(len(asked), dtype=bool)
        for level in self._levels:
            at = np.minimum(np.searchsorted(level, asked), len(level) - 1)
            found |= level[at] == asked
        return found

    def __len__(self) -> int:
        return sum(map(len, self._levels))

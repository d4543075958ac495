"""Training, validation and test patients: the data set's own parts, or parts by a hash of the patient, or by time.

A patient is in one part only, whatever the rule: what a network remembers of a patient would pass for medicine.
"""

import hashlib
from collections.abc import Sequence
from datetime import datetime
from typing import Literal, NamedTuple

import numpy as np

from anyecg_ray.config import InputError
from anyecg_ray.owners import person

PARTS = ("train", "val", "test")
SHARES = (0.8, 0.1, 0.1)
Split = Literal["auto", "random", "chrono", "fold", "hash", "time"]


class Person(NamedTuple):
    """One encounter, as much of it as splits and slices need."""

    encounter: str
    patient: str | None
    start: datetime | None
    age: float | None
    sex: str | None
    own: dict[str, str | None]
    """By rule (random, chrono, fold): the data set's own part."""
    described: tuple[str | None, ...] = ()
    """What schema.DESCRIBING names."""

    @property
    def who(self) -> str:
        """The patient; an encounter of nobody known is a patient of its own."""
        return person(self.encounter, self.patient)


def assign(people: Sequence[Person], rule: Split, where: str) -> tuple[list[str | None], str]:
    """The part of each encounter, None where it has none, and the rule that was followed.

    Raises InputError where the rule cannot be followed, or puts a patient into two parts.
    """
    chosen = _auto(people) if rule == "auto" else rule
    if chosen == "hash":
        parts: list[str | None] = [by_hash(p.who) for p in people]
    elif chosen == "time":
        parts = _by_time(people)
    else:
        parts = [p.own.get(chosen) or None for p in people]
        if not any(parts):
            raise InputError(f"setting split: {where} has no split {chosen} of its own; give hash or time")
    check(people, parts, where)
    return parts, chosen


def check(people: Sequence[Person], parts: Sequence[str | None], where: str) -> None:
    """Raise InputError where a patient's encounters are in two parts."""
    home: dict[str, str] = {}
    placed = [(p.who, part) for p, part in zip(people, parts, strict=True) if part]
    if twice := {who for who, part in placed if home.setdefault(who, part) != part}:
        raise InputError(
            f"{where}: {len(twice):,} patients are in more than one split; a patient must be in one: "
            "mend the split files, or give --split hash"
        )


def by_hash(patient: str) -> str:
    """80, 10 and 10% of the patients, the same ones in every run and on every machine."""
    share = int.from_bytes(hashlib.sha256(patient.encode()).digest()[:8], "big") / 2**64
    return PARTS[int(np.searchsorted(np.cumsum(SHARES), share, side="right"))]


def _auto(people: Sequence[Person]) -> Split:
    for rule in ("random", "fold", "chrono"):
        if any(p.own.get(rule) for p in people):
            return rule  # type: ignore[return-value]
    return "hash"


def _by_time(people: Sequence[Person]) -> list[str | None]:
    """By the day of a patient's first encounter, the earliest 80% for training; all of a patient stays together."""
    if timeless := sum(p.start is None for p in people):
        raise InputError(f"setting split: {timeless:,} encounters have no time; give --split hash")
    first: dict[str, datetime] = {}
    for p in people:
        assert p.start is not None
        first[p.who] = min(first.get(p.who, p.start), p.start)
    ranked = sorted(first, key=lambda who: (first[who], who))
    edges = np.cumsum(SHARES) * len(ranked)
    part = {who: PARTS[min(2, int(np.searchsorted(edges, i, side="right")))] for i, who in enumerate(ranked)}
    return [part[p.who] for p in people]

"""Whose a table's row is: among the recordings of a manifest, found by encounter and patient together.

The encounter alone does not tell: some archives number encounters anew for each patient. Where a row and a recording
both name a patient, they must name the same one. Where one of them names none, the encounter must be one patient's on
the other side; else the table is refused, because a patient would get another's results.
"""

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from anyecg_ray.config import InputError

Who = tuple[str | None, str | None]
"""(encounter, patient)."""


def whose(encounter: str | None, patient: str | None) -> Who:
    """The pair that people are looked up by; where an archive knows no encounters, the patient stands for one."""
    return encounter or patient, patient


def key(encounter: str | None, patient: str | None) -> str:
    """One text for both; no identifier holds a unit separator."""
    return f"{encounter or ''}\x1f{patient or ''}"


def person(encounter: str | None, patient: str | None, record: str | None = None) -> str:
    """The patient; where nobody knows who it was, the encounter, or else the record, is a patient of its own."""
    return patient or (f"encounter {encounter}" if encounter else f"record {record}")


class Owners:
    """Who is recorded, and which of them a row of one table is about."""

    def __init__(self, known: Iterable[Who], table: str) -> None:
        """table: what an error is to name."""
        self.table = table
        self.keys = sorted({key(*who) for who in known} - {key(None, None)})
        self._keys = pa.array(self.keys, pa.string())
        encounters = np.array([k.partition("\x1f")[0] for k in self.keys], object)
        distinct, first, n = np.unique(encounters, return_index=True, return_counts=True)
        self._encounters = pa.array(distinct, pa.string())
        self._only = pa.array(np.where(n == 1, first, -1), pa.int32())
        self._patients: dict[int, str] = {}
        """Place in `keys` -> patient whom the table names, for recordings that name none."""

    def places(self, encounter: pa.Array, patient: pa.Array) -> pa.Array:
        """The index into `keys` of each row's owner, null where that is nobody recorded.

        Raises InputError, naming the table, where that cannot be told; no message holds an identifier.
        """
        encounter, patient = (pc.fill_null(column, "") for column in (encounter, patient))
        named = pc.index_in(pc.binary_join_element_wise(encounter, patient, "\x1f"), self._keys)
        return pc.coalesce(named, self._of_one(encounter, patient), self._of_nobody(encounter, patient))

    def _of_one(self, encounter: pa.Array, patient: pa.Array) -> pa.Array:
        """Places for rows that name no patient, where only one patient has an encounter of that id."""
        asked = pc.if_else(pc.and_(pc.not_equal(encounter, ""), pc.equal(patient, "")), encounter, None)
        only = pc.take(self._only, pc.index_in(asked, self._encounters))
        if pc.any(pc.equal(only, -1)).as_py():
            raise InputError(
                f"{self.table}: an encounter's id stands for several patients in the manifest, and a row with it names "
                "none of them; name the patient in every row"
            )
        return only

    def _of_nobody(self, encounter: pa.Array, patient: pa.Array) -> pa.Array:
        """Places for rows that name a patient, where the recordings of the encounter name none."""
        asked = pc.if_else(pc.and_(pc.not_equal(encounter, ""), pc.not_equal(patient, "")), encounter, None)
        place = pc.index_in(pc.binary_join_element_wise(asked, "", "\x1f"), self._keys)
        there = pc.is_valid(place)
        for at, who in set(zip(place.filter(there).to_pylist(), patient.filter(there).to_pylist(), strict=True)):
            if self._patients.setdefault(at, who) != who:
                raise InputError(
                    f"{self.table}: an encounter's id stands for several patients, and the manifest does not say "
                    "of which its records are; make it again so that it names patients (--wfdb.patient)"
                )
        return place

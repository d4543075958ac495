"""Estimates as rows of OMOP: waveform_feature of the waveform extension by default, MEASUREMENT only when asked for.

No standard concept stands for an estimate, and nobody here could check one: every concept id is 0 or null, and listed.
Ids of persons, visits and waveforms belong to the database that takes the rows: they come from a table of its own, or
stay null with the source's identifiers beside them. Source of the columns: OHDSI WaveformWG, waveform tables; CDM 5.4.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from anyecg_ray import absence
from anyecg_ray.meds import code

TIME = pa.timestamp("us")

FEATURE = pa.schema(
    [
        ("waveform_feature_id", pa.int64()),
        ("waveform_occurrence_id", pa.int64()),
        ("waveform_registry_id", pa.int64()),
        ("waveform_channel_metadata_id", pa.int64()),
        ("measurement_id", pa.int64()),
        ("observation_id", pa.int64()),
        ("algorithm_concept_id", pa.int64()),
        ("algorithm_source_value", pa.string()),
        ("anatomic_site_concept_id", pa.int64()),
        ("waveform_feature_start_timestamp", TIME),
        ("waveform_feature_end_timestamp", TIME),
        ("is_feature_overflow", pa.bool_()),
        ("value_as_number", pa.float64()),
        ("value_as_concept_id", pa.int64()),
        ("value_as_string", pa.string()),
        ("value_is_a_registry_file", pa.bool_()),
        ("unit_concept_id", pa.int64()),
        ("unit_source_value", pa.string()),
        # not of the extension: by what the ids above can be found later
        ("person_id", pa.int64()),
        ("waveform_occurrence_source_value", pa.string()),
        ("person_source_value", pa.string()),
    ]
)

MEASUREMENT = pa.schema(
    [
        ("measurement_id", pa.int64()),
        ("person_id", pa.int64()),
        ("measurement_concept_id", pa.int64()),
        ("measurement_date", pa.date32()),
        ("measurement_datetime", TIME),
        ("measurement_time", pa.string()),
        ("measurement_type_concept_id", pa.int64()),
        ("operator_concept_id", pa.int64()),
        ("value_as_number", pa.float64()),
        ("value_as_concept_id", pa.int64()),
        ("unit_concept_id", pa.int64()),
        ("range_low", pa.float64()),
        ("range_high", pa.float64()),
        ("provider_id", pa.int64()),
        ("visit_occurrence_id", pa.int64()),
        ("visit_detail_id", pa.int64()),
        ("measurement_source_value", pa.string()),
        ("measurement_source_concept_id", pa.int64()),
        ("unit_source_value", pa.string()),
        ("unit_source_concept_id", pa.int64()),
        ("value_source_value", pa.string()),
        ("measurement_event_id", pa.int64()),
        ("meas_event_field_concept_id", pa.int64()),
        # not of the CDM: by what person_id can be found later
        ("person_source_value", pa.string()),
    ]
)

UNCHECKED: dict[str, dict[str, str | None]] = {
    "waveform_feature": {
        "algorithm_concept_id": "algorithm_source_value",
        "unit_concept_id": "unit_source_value",
    },
    "measurement": {
        "measurement_concept_id": "measurement_source_value",
        "measurement_type_concept_id": None,
        "unit_concept_id": "unit_source_value",
    },
}
"""Concept ids that are left 0 or null because nobody could check one, and the column that says what they would name."""

FOREIGN = {
    "waveform_feature": (
        "person_id",
        "waveform_occurrence_id",
        "waveform_registry_id",
        "waveform_channel_metadata_id",
    ),
    "measurement": ("person_id",),
}
"""Ids that the database requires and that only its own tables can tell."""

SOURCE_LETTERS = 50
"""What measurement_source_value holds in CDM 5.4; waveform_feature's column takes 255."""


def unchecked(name: str, made: pa.Table) -> Counter[tuple[str, ...]]:
    """(column, source value) of the concept ids of a table that somebody has to look up, with their rows."""
    found: Counter[tuple[str, ...]] = Counter()
    for column, source in UNCHECKED[name].items():
        values = made.column(source).to_pylist() if source else [""] * len(made)
        found.update((column, value) for value in values if value is not None)
    return found


def features(
    rows: pa.Table, persons: Mapping[str, int], waveforms: Mapping[str, tuple[int, int, int]], window: timedelta
) -> pa.Table:
    """Rows of waveform_feature, of rows of schema.ECG_LAB_ESTIMATE that have an estimate.

    persons: person_id by patient; waveforms: by record_id the ids of occurrence, registry and channel; where known.
    window: how long one of the model's is.
    """
    starts = rows.column("ecg_time").cast(TIME)
    ends = pc.add(starts, pa.scalar(window, pa.duration("us")))
    ids = [waveforms.get(r, (None, None, None)) for r in rows.column("record_id").to_pylist()]
    told: dict[str, Any] = {
        "waveform_feature_id": identifiers(rows),
        "waveform_occurrence_id": [i[0] for i in ids],
        "waveform_registry_id": [i[1] for i in ids],
        "waveform_channel_metadata_id": [i[2] for i in ids],
        "algorithm_concept_id": np.zeros(len(rows), np.int64),
        "algorithm_source_value": sources(rows, 255),
        "waveform_feature_start_timestamp": starts,
        # the table does not say where a span ends, only where a window does
        "waveform_feature_end_timestamp": pc.if_else(pc.is_valid(rows.column("window_start")), ends, None),
        "is_feature_overflow": [False] * len(rows),
        "value_as_number": absence.numbers(rows),
        "value_is_a_registry_file": [False] * len(rows),
        "unit_source_value": units(rows),
        "waveform_occurrence_source_value": rows.column("record_id"),
        "person_id": _known(rows, persons),
        "person_source_value": rows.column("patient_id"),
    }
    return _filled(told, FEATURE, len(rows))


def measurements(rows: pa.Table, persons: Mapping[str, int]) -> pa.Table:
    """Rows of MEASUREMENT, of rows that have an estimate and a time. persons: person_id by patient, where known."""
    told: dict[str, Any] = {
        "measurement_id": identifiers(rows),
        "person_id": _known(rows, persons),
        "measurement_concept_id": np.zeros(len(rows), np.int64),
        "measurement_date": rows.column("ecg_time").cast(pa.date32()),
        "measurement_datetime": rows.column("ecg_time").cast(TIME),
        "measurement_type_concept_id": np.zeros(len(rows), np.int64),
        "value_as_number": absence.numbers(rows),
        "measurement_source_value": sources(rows, SOURCE_LETTERS),
        "unit_source_value": units(rows),
        "person_source_value": rows.column("patient_id"),
    }
    return _filled(told, MEASUREMENT, len(rows))


def _known(rows: pa.Table, persons: Mapping[str, int]) -> list[int | None]:
    return [persons.get(p) for p in rows.column("patient_id").to_pylist()]


def _filled(told: dict[str, Any], schema: pa.Schema, n: int) -> pa.Table:
    columns = [told.get(f.name) for f in schema]
    return pa.table(
        [
            pa.nulls(n, f.type) if c is None else c.cast(f.type) if hasattr(c, "cast") else pa.array(c, f.type)
            for c, f in zip(columns, schema, strict=True)
        ],
        schema=schema,
    )


def identifiers(rows: pa.Table) -> np.ndarray:
    """(n,) int64 above 0: the same estimate has the same id in every export."""
    names = zip(
        *(rows.column(c).to_pylist() for c in ("span_id", "window_start", "indicator", "model_version")), strict=True
    )
    digests = [hashlib.sha256("|".join(map(str, name)).encode()).digest()[:8] for name in names]
    return np.array([int.from_bytes(d, "big") >> 1 for d in digests], np.int64)


def sources(rows: pa.Table, letters: int) -> list[str]:
    """The codes of the rows as meds.code has them, at most so many letters: databases refuse more."""
    names = zip(*(rows.column(c).to_pylist() for c in ("indicator", "model_version")), strict=True)
    return [source(i, v, letters) for i, v in names]


def source(indicator: str, version: str, letters: int) -> str:
    """One of them. A name that is too long ends in six digits of its hash, so that no two become one."""
    whole = code(indicator, version)
    if len(whole) <= letters:
        return whole
    return whole[: letters - 7] + "#" + hashlib.sha256(whole.encode()).hexdigest()[:6]


def units(rows: pa.Table) -> Any:
    """UCUM: of the value, or 1 of a probability."""
    return pc.if_else(pc.is_valid(rows.column("value")), rows.column("unit"), "1")

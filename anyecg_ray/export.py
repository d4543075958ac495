"""Hand estimates on in a standard's form: FHIR R4, OMOP or MEDS; shard by shard, whatever the warehouse is."""

import json
from collections import Counter
from collections.abc import Iterator
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from anyecg_ray import fhir, meds, omop, storage, tables
from anyecg_ray.config import InputError, Settings
from anyecg_ray.ledger import Ledger
from anyecg_ray.model import Card, load
from anyecg_ray.publish import publishable

MEDS_ROWS = 2_000_000
"""Events of one file of MEDS, about: it is sorted in memory."""


class Export(Settings):
    """Write a back-fill's estimates as FHIR, OMOP or MEDS."""

    out: str
    """The --out of the back-fill."""

    bundle: str
    """The model that it was scored with."""

    to: Literal["fhir", "omop", "meds"]
    """fhir: NDJSON of Observations and the Device. omop: waveform_feature. meds: data and metadata."""

    dest: str
    """Folder or s3:// prefix; a file has the name of what it is made of, so the same line writes it anew."""

    measurement: bool = False
    """omop: MEASUREMENT instead of waveform_feature. Estimates then stand among measured results: think twice."""

    persons: str | None = None
    """omop, meds: a table patient_id, person_id; without it MEDS takes patients that are whole numbers."""

    waveforms: str | None = None
    """omop: a table record_id, waveform_occurrence_id, waveform_registry_id, waveform_channel_metadata_id."""


def export(settings: Export) -> Counter[str]:
    """Write the files, print and return what was written and what was left out, by reason."""
    card = load(settings.bundle).card
    ledger = Ledger(settings.out, card.model_id, card.model_version)
    ledger.open()
    counts: Counter[str] = Counter()
    {"fhir": _fhir, "omop": _omop, "meds": _meds}[settings.to](settings, ledger, card, counts)
    print(f"{settings.dest}: " + (", ".join(f"{n:,} {what}" for what, n in counts.most_common()) or "nothing"))
    return counts


def _shards(ledger: Ledger, card: Card) -> Iterator[tuple[str, pa.Table]]:
    granularity = ledger.job["granularity"]
    for shard in sorted(ledger.staged()):
        yield shard, publishable(ledger.rows(shard), card, granularity)


def _fhir(settings: Export, ledger: Ledger, card: Card, counts: Counter[str]) -> None:
    storage.write_atomic(storage.join(settings.dest, "Device.ndjson"), _lines([fhir.device(card)]))
    for shard, rows in _shards(ledger, card):
        resources = list(fhir.observations(rows.to_pylist(), card))
        storage.write_atomic(storage.join(settings.dest, f"Observation-{shard}.ndjson"), _lines(resources))
        absent = sum("dataAbsentReason" in r for r in resources)
        counts.update({"Observations": len(resources), "of them without an estimate": absent})


def _lines(resources: list[dict[str, object]]) -> bytes:
    return "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in resources).encode()


def _omop(settings: Export, ledger: Ledger, card: Card, counts: Counter[str]) -> None:
    persons, waveforms = _persons(settings.persons), _waveforms(settings.waveforms)
    name, needed = (
        ("measurement", "person_id") if settings.measurement else ("waveform_feature", "waveform_occurrence_id")
    )
    for shard, rows in _shards(ledger, card):
        ok = rows.filter(pc.equal(rows.column("status"), "ok"))
        counts["rows left out: no estimate"] += len(rows) - len(ok)
        made = omop.measurements(ok, persons) if settings.measurement else omop.features(ok, waveforms)
        counts[f"rows of {name}"] += len(made)
        counts[f"of them without {needed}"] += made.column(needed).null_count
        with storage.atomic_output(storage.join(settings.dest, name, f"{shard}.parquet")) as file:
            pq.write_table(made, file, compression="zstd")
    listed = "table,column\n" + "".join(f"{name},{column}\n" for column in omop.UNCHECKED[name])
    storage.write_atomic(storage.join(settings.dest, "unchecked_concepts.csv"), listed.encode())


def _meds(settings: Export, ledger: Ledger, card: Card, counts: Counter[str]) -> None:
    persons = _persons(settings.persons)
    parts = max(1, ledger.counts().total() * len(card.indicators) // MEDS_ROWS)
    left_out: Counter[str] = Counter()
    made = (meds.events(rows, persons, left_out) for _, rows in _shards(ledger, card))
    counts["events"] = meds.write(made, settings.dest, card, parts)
    counts.update({f"rows left out: {reason}": n for reason, n in left_out.items() if n})


def _persons(uri: str | None) -> dict[str, int]:
    return {k: v[0] for k, v in _table(uri, "patient_id", ("person_id",)).items()}


def _waveforms(uri: str | None) -> dict[str, tuple[int, int, int]]:
    names = ("waveform_occurrence_id", "waveform_registry_id", "waveform_channel_metadata_id")
    return {k: (v[0], v[1], v[2]) for k, v in _table(uri, "record_id", names).items()}


def _table(uri: str | None, key: str, names: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """Whole numbers by a key. Raises InputError."""
    found: dict[str, tuple[int, ...]] = {}
    for batch in tables.batches(uri, [key, *names]) if uri else ():
        keys = tables.identifiers(batch[key]).to_pylist()
        columns = [tables.identifiers(batch[n]).to_pylist() for n in names]
        for who, *ids in zip(keys, *columns, strict=True):
            if who is None or not all((i or "").isdecimal() for i in ids):
                raise InputError(f"{uri}: {', '.join(names)} of {key} {who} are no whole numbers")
            found[who] = tuple(int(i) for i in ids)
    return found

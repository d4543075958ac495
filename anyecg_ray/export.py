"""Hand estimates on in a standard's form: FHIR R4, OMOP or MEDS; shard by shard, whatever the warehouse is.

Rows come from staging, through the same `publishable` that fills the warehouses. Files bear the model's version and
the back-fill's id, so that versions lie beside each other as they do in the table, and back-fills of one model too.
"""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from anyecg_ray import absence, fhir, meds, omop, storage, tables
from anyecg_ray.config import InputError, Location, Settings
from anyecg_ray.estimate_rows import opened_job, publishable
from anyecg_ray.ledger import Ledger
from anyecg_ray.model import Card

AT_ONCE = 2_000
"""Observations held in memory: a shard of 1,000 spans and 150 indicators would take over a gigabyte."""


class Export(Settings):
    """Write a back-fill's estimates as FHIR, OMOP or MEDS."""

    out: Location
    """The --out of the back-fill."""

    bundle: Location
    """The model that it was scored with."""

    to: Literal["fhir", "omop", "meds"]
    """fhir: NDJSON of Observations and the Device. omop: waveform_feature. meds: data and metadata."""

    dest: Location
    """Folder or s3:// prefix; a file has the name of what it is made of, so the same line writes it anew."""

    measurement: bool = False
    """omop: MEASUREMENT instead of waveform_feature. Estimates then stand among measured results: think twice."""

    persons: Location | None = None
    """omop, meds: a table patient_id, person_id; without it MEDS takes patients that are whole numbers."""

    waveforms: Location | None = None
    """omop: a table record_id, waveform_occurrence_id, waveform_registry_id, waveform_channel_metadata_id."""


def export(settings: Export) -> Counter[str]:
    """Write the files, print and return what was written and what was left out, by reason."""
    ledger, card = opened_job(settings.out, settings.bundle)
    counts: Counter[str] = Counter()
    {"fhir": _fhir, "omop": _omop, "meds": _meds}[settings.to](settings, ledger, card, counts)
    print(f"{settings.dest}:" + ("" if +counts else " nothing"))
    for what, n in (+counts).most_common():
        print(f"  {n:>12,} {what}")
    return counts


def _name(ledger: Ledger, card: Card) -> str:
    """What names of files begin with."""
    return f"{card.model_version}-{ledger.job['id']}"


def _shards(ledger: Ledger, card: Card) -> Iterator[tuple[str, pa.Table]]:
    granularity = ledger.job["granularity"]
    for shard in sorted(ledger.staged()):
        yield f"{_name(ledger, card)}-{shard}", publishable(ledger.rows(shard), card, granularity)


def _fhir(settings: Export, ledger: Ledger, card: Card, counts: Counter[str]) -> None:
    device = storage.join(settings.dest, f"Device-{_name(ledger, card)}.ndjson")
    storage.write_atomic(device, _line(fhir.device(card)))
    for name, rows in _shards(ledger, card):
        with storage.atomic_output(storage.join(settings.dest, f"Observation-{name}.ndjson")) as file:
            for batch in rows.to_batches(max_chunksize=AT_ONCE):
                found = batch.to_pylist()
                file.writelines(map(_line, fhir.observations(found, card)))
                counts["Observations"] += len(found)
                counts.update(f"of them without an estimate: {why}" for why in map(absence.reason, found) if why)


def _line(resource: dict[str, object]) -> bytes:
    return (json.dumps(resource, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _omop(settings: Export, ledger: Ledger, card: Card, counts: Counter[str]) -> None:
    persons, waveforms = _persons(settings.persons), _waveforms(settings.waveforms)
    window = timedelta(seconds=card.recipe["seconds"])
    table = "measurement" if settings.measurement else "waveform_feature"
    unchecked: Counter[tuple[str, ...]] = Counter()
    for name, rows in _shards(ledger, card):
        rows = absence.estimated(rows, counts)
        if settings.measurement:
            timed = rows.filter(pc.is_valid(rows.column("ecg_time")))  # MEASUREMENT does not take a row without a date
            counts[absence.left_out("no time")] += len(rows) - len(timed)
            made = omop.measurements(timed, persons)
        else:
            made = omop.features(rows, persons, waveforms, window)
        counts[f"rows of {table}"] += len(made)
        for needed in omop.FOREIGN[table]:
            counts[f"of them without {needed}"] += made.column(needed).null_count
        unchecked.update(omop.unchecked(table, made))
        with storage.atomic_output(storage.join(settings.dest, table, f"{name}.parquet")) as file:
            pq.write_table(made, file, compression="zstd")
    counts["concept ids that nobody could check"] = len(unchecked)
    where = storage.join(settings.dest, f"unchecked_concepts-{table}-{_name(ledger, card)}.csv")
    storage.write_atomic(where, _csv(("column", "source_value", "rows"), unchecked))


def _csv(header: tuple[str, ...], counted: Counter[tuple[str, ...]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *((*key, n) for key, n in sorted(counted.items()))])
    return text.getvalue().encode()


def _meds(settings: Export, ledger: Ledger, card: Card, counts: Counter[str]) -> None:
    persons = _persons(settings.persons) if settings.persons else None
    meds.claim(settings.dest, card, ledger.job["id"])
    made = (meds.events(rows, persons, counts) for _, rows in _shards(ledger, card))
    counts["events"] = meds.write(made, settings.dest, meds.parts(_units(ledger) * len(card.indicators)))


def _units(ledger: Ledger) -> int:
    """Spans or windows that were staged, whichever the table's rows are of."""
    if ledger.job["granularity"] == "span":
        return ledger.counts().total()
    windows = (ledger.rows(shard, ["window_start"]).column("window_start") for shard in ledger.staged())
    return sum(pc.sum(pc.list_value_length(column)).as_py() or 0 for column in windows)


def _persons(uri: str | None) -> dict[str, int]:
    return {k: v[0] for k, v in _table(uri, "patient_id", ("person_id",)).items()}


def _waveforms(uri: str | None) -> dict[str, tuple[int, int, int]]:
    names = ("waveform_occurrence_id", "waveform_registry_id", "waveform_channel_metadata_id")
    return {k: (v[0], v[1], v[2]) for k, v in _table(uri, "record_id", names).items()}


def _table(uri: str | None, key: str, names: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """Whole numbers by a key. Raises InputError, which tells the row and never the patient."""
    found: dict[str, tuple[int, ...]] = {}
    row = 0
    for batch in tables.batches(uri, [key, *names]) if uri else ():
        columns = [tables.identifiers(batch[n]).to_pylist() for n in (key, *names)]
        for who, *ids in zip(*columns, strict=True):
            row += 1
            whole = tuple(i for i in map(meds.whole, ids) if i is not None)
            if not who or len(whole) < len(names):
                raise InputError(f"{uri}: row {row}: {', '.join((key, *names))} must be there, all ids whole numbers")
            if found.setdefault(who, whole) != whole:
                raise InputError(f"{uri}: row {row}: its {key} stood above with other ids; leave one row of each")
    return found

"""MC-MED: adult visits to Stanford's emergency department, 2020–2022, with monitor waveforms and labs.

Release 1.0.0 has the tables at its root and the waveforms in zip files, which are read where they lie; 1.0.1 has
both unpacked, in `data/` or at the root. The tables are the same. labs.csv knows visits (CSN) only: whose they are is
in visits.csv alone. It has no collection time: the order precedes the draw and the result follows it by the
laboratory's turnaround. Dates are shifted into the 2200s.
"""

import gzip
import re
from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from anyecg_ray import labtable, storage, tables
from anyecg_ray.config import InputError, Settings
from anyecg_ray.datasets.found import FOLDER, Found, encounter_rows
from anyecg_ray.labtable import Counts
from anyecg_ray.labvalue import Reason, parse_column
from anyecg_ray.listing import by_folder, walk
from anyecg_ray.splits import PARTS

DATASET = "mc-med"
VISITS = ("MRN", "CSN", "Age", "Gender", "Arrival_time")
DESCRIBED = {"acuity": "Triage_acuity", "disposition": "ED_dispo", "race": "Race", "ethnicity": "Ethnicity"}
MORE_OF_VISITS = ("Departure_time", *DESCRIBED.values())
LABS = ("CSN", "Order_time", "Result_time", "Component_name", "Component_value")
MORE_OF_LABS = (
    "Component_result",
    "Component_units",
    "Component_abnormal",
    "Component_nml_low",
    "Component_nml_high",
)


def table(archive: str, name: str) -> str:
    """Where a table lies in either release, plain or gzipped. Raises InputError."""
    return tables.locate(_roots(archive), name)


def _roots(archive: str) -> list[str]:
    return [archive, storage.join(archive, "data")]


class McMed(Settings):
    """Which of MC-MED's waveforms to take."""

    leads: tuple[str, ...] = ("II",)
    """Folders of waveforms: II is the ECG; Pleth and Resp are the others."""


def records(archive: str, settings: McMed, notes: list[str]) -> Iterator[list[Found]]:
    """Every segment of the leads asked for, those of a visit in numeric order.

    The tree is `waveforms/{last 3 digits of the CSN}/{CSN}/{lead}/{CSN}_{segment}`.

    What does not fit together (visits whose waveforms are not there, waveforms of unknown visits) goes to `notes`.
    Raises InputError where there are no waveforms.
    """
    paths = _headers(archive)
    visits = _visits(archive)
    found: dict[str, set[str]] = {lead: set() for lead in settings.leads}
    unknown = 0
    for folder in by_folder((p.removesuffix(".hea") for p in paths if p.split("/")[-2] in found), FOLDER):
        lead, name = folder[0].split("/")[-2:]
        csn = name.rpartition("_")[0]
        found[lead].add(csn)
        unknown += csn not in visits
        mrn, age, sex = visits.get(csn, (None, None, None))
        yield [Found(path, mrn, csn, None, age, sex) for path in sorted(folder, key=_segment)]
    if unknown:
        notes.append(f"{unknown} visits with waveforms are not in visits.csv: their patient is unknown")
    for lead in settings.leads if tables.search(_roots(archive), "waveform_summary.csv") else ():
        missing = without_files(summary(archive, lead), found[lead])
        if missing:
            notes.append(f"{len(missing)} visits of waveform_summary.csv have no files of {lead}")


def _visits(archive: str) -> dict[str, tuple[str | None, float | None, str | None]]:
    """CSN -> MRN, age and sex of every visit."""
    columns = ("encounter_id", "patient_id", "age", "sex")
    return {
        csn: (mrn, age, sex)
        for batch in encounters(archive)
        for csn, mrn, age, sex in zip(*(batch[c].to_pylist() for c in columns), strict=True)
    }


def _headers(archive: str) -> Iterator[str]:
    """Paths of all headers: of the folder of waveforms, else of the zips. Raises InputError."""
    for folder in ("waveforms", "data/waveforms"):
        root = storage.join(archive, folder)
        if storage.exists(root):
            return (f"{folder}/{path}" for path in walk(root, ".hea"))
    zipped = [name for name in storage.list_folder(archive)[1] if re.fullmatch(r"waveforms.*\.zip", name)]
    if not zipped:
        raise InputError(
            f"{archive}: no waveforms/ and no waveforms_….zip here; give the folder that holds them and visits.csv"
        )
    return (f"{name}/{path}" for name in zipped for path in storage.members(storage.join(archive, name), ".hea"))


def _segment(path: str) -> tuple[int, str]:
    number = path.rpartition("_")[2]
    return (int(number) if number.isdigit() else 0, path)


def encounters(archive: str) -> Iterator[pa.RecordBatch]:
    """ENCOUNTERS: every visit, with or without a waveform, and its part in the two official splits.

    Raises InputError where a table is missing or a visit is in two parts of one split.
    """
    splits = {f"split_{kind}": split(archive, kind) for kind in ("random", "chrono")}
    for batch in tables.batches(table(archive, "visits.csv"), VISITS, MORE_OF_VISITS):
        csn = tables.identifiers(batch["CSN"])
        columns = {
            "patient_id": tables.identifiers(batch["MRN"]),
            "encounter_id": csn,
            "start_time": tables.times(batch["Arrival_time"])[0],
            "end_time": tables.times(batch["Departure_time"])[0],
            "age": pa.array(tables.numbers(batch["Age"]), pa.float32(), from_pandas=True),
            "sex": tables.sex(batch["Gender"]),
            **{name: _part(csn, parts) for name, parts in splits.items()},
            **{name: tables.texts(batch[column]) for name, column in DESCRIBED.items()},
        }
        yield encounter_rows(DATASET, columns)


def labels(archive: str, counts: Counts | None = None) -> Iterator[pa.RecordBatch]:
    """LABELS: every line of labs.csv, in its order, the patient found through visits.csv."""
    counts = Counts() if counts is None else counts
    patient = patients(archive)
    odd: list[str] = []
    for batch in tables.batches(table(archive, "labs.csv"), LABS, MORE_OF_LABS, odd):
        yield _labels(batch, patient, counts)
    yield from labtable.malformed(len(odd), "labs.csv", counts)


def _labels(batch: pa.RecordBatch, patient: pa.Table, counts: Counts) -> pa.RecordBatch:
    csn = tables.identifiers(batch["CSN"])
    mrn = pc.take(patient["patient_id"], pc.index_in(csn, patient["encounter_id"])).combine_chunks()
    rows = {
        "patient_id": mrn,
        "encounter_id": csn,
        "order_time": batch["Order_time"],
        "result_time": batch["Result_time"],
        "component": batch["Component_name"],
        "unit": batch["Component_units"],
        "low": batch["Component_nml_low"],
        "high": batch["Component_nml_high"],
        "flag": batch["Component_abnormal"],
        "reason": pc.if_else(pc.is_null(mrn), str(Reason.UNKNOWN_ENCOUNTER), None),
    }
    # the value is a text; the result beside it may still be a bound (">10.0") where the value is a bare number
    results = parse_column(batch["Component_value"]).or_else(parse_column(batch["Component_result"]))
    return labtable.label_batch(rows, results, DATASET, counts)


def patients(archive: str) -> pa.Table:
    """`encounter_id` (CSN) and `patient_id` (MRN) of every visit: 118,385 rows, small enough to hold.

    Raises InputError where one CSN stands for two patients.
    """
    uri = table(archive, "visits.csv")
    found = [[tables.identifiers(b[c]) for c in ("CSN", "MRN")] for b in tables.batches(uri, ("CSN", "MRN"))]
    columns = [pa.chunked_array([f[i] for f in found], pa.string()) for i in (0, 1)]
    pairs = pa.table(columns, names=["encounter_id", "patient_id"]).group_by(["encounter_id", "patient_id"])
    known = pairs.aggregate([])
    counted = known["encounter_id"].value_counts()
    if len(counted) < len(known):
        twice = pc.sum(pc.greater(counted.field("counts"), 1)).as_py()
        raise InputError(f"{uri}: {twice:,} visits (CSN) stand for two patients (MRN); each must have one")
    return known


def split(archive: str, kind: str) -> dict[str, str]:
    """CSN -> train, val or test of the official `random` or `chrono` split; empty where the files are not there.

    The files have one CSN a line and no header. Raises InputError where a CSN is in two of them.
    """
    parts: dict[str, str] = {}
    for part in PARTS:
        name = f"split_{kind}_{part}.csv"
        for line, csn in enumerate(_lines(archive, name), 1):
            if parts.setdefault(csn, part) != part:
                raise InputError(f"{name}: visit {line} is also in split_{kind}_{parts[csn]}.csv; it must be in one")
    return parts


def _lines(archive: str, name: str) -> list[str]:
    uri = tables.search(_roots(archive), name)
    if uri is None:
        return []
    raw = storage.read_bytes(uri)
    text = (gzip.decompress(raw) if uri.endswith(".gz") else raw).decode("utf-8-sig", errors="replace")
    cells = [line.strip().strip('"').removesuffix(".0") for line in text.splitlines()]
    return [c for c in cells if c and c.upper() != "CSN"]


def summary(archive: str, lead: str) -> dict[str, int]:
    """CSN -> number of segments of a lead that waveform_summary.csv claims. Some of them have no files."""
    claimed: dict[str, int] = {}
    for batch in tables.batches(table(archive, "waveform_summary.csv"), ("CSN", "Type", "Segments")):
        wanted = batch.filter(pc.equal(tables.texts(batch["Type"]), lead))
        segments = np.nan_to_num(tables.numbers(wanted["Segments"])).astype(int).tolist()
        claimed.update(zip(tables.identifiers(wanted["CSN"]).to_pylist(), segments, strict=True))
    return claimed


def without_files(claimed: dict[str, int], found: Iterable[str]) -> list[str]:
    """Visits whose segments the summary claims but of which none was found, in order. found: CSNs that have records."""
    have = set(found)
    return sorted(csn for csn, segments in claimed.items() if segments > 0 and csn not in have)


def _part(csn: pa.Array, parts: dict[str, str]) -> pa.Array:
    return pa.array([parts.get(c) for c in csn.to_pylist()], pa.string())

"""MIMIC-IV-ECG: 800,035 hospital ECGs of 161,352 patients, with the laboratory of MIMIC-IV (module hosp).

ECGs and labs share the patient (subject_id) and the clock, nothing else: an encounter here is one ECG, and
labels carry no encounter. The cart's clock is often not the hospital's, so any window between the two is
uncertain by minutes. Laboratory items go by itemid: one label (Glucose) stands for several fluids.
"""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from anyecg_ray import labtable, storage, tables
from anyecg_ray.analytes import BY_KEY
from anyecg_ray.datasets.found import Found, encounter_rows, listed
from anyecg_ray.labtable import Counts
from anyecg_ray.labvalue import Reason, Results, parse_column

DATASET = "mimic-iv-ecg"
EXCLUDED = ("50934", "50947", "51678")
"""H, I and L: how haemolysed, icteric and lipaemic a sample looked. Not laboratory results."""
LABEVENTS = ("subject_id", "itemid", "charttime", "storetime", "value", "valuenum")
MORE_OF_LABEVENTS = ("valueuom", "ref_range_lower", "ref_range_upper", "flag", "comments")
FROM_RED_CELLS = ("potassium", "ldh", "ast", "magnesium", "phosphate")
"""Analytes of which red cells hold far more than plasma, so that a haemolysed sample says nothing; the list is ours."""
HAEMOLYSED = "(?i)ha?emoly"
DELAYS = ("rr_interval", "p_onset", "p_end", "qrs_onset", "qrs_end", "t_end")
AXES = ("p_axis", "qrs_axis", "t_axis")
MEASURES = {
    "rr_interval": ("rr_interval", None, "ms"),
    "pr_interval": ("qrs_onset", "p_onset", "ms"),
    "qrs_duration": ("qrs_end", "qrs_onset", "ms"),
    "qt_interval": ("t_end", "qrs_onset", "ms"),
    "p_axis": ("p_axis", None, "deg"),
    "qrs_axis": ("qrs_axis", None, "deg"),
    "t_axis": ("t_axis", None, "deg"),
}
"""What the cart measured: a column, minus another where it is a duration, and its unit."""


def table(folder: str, name: str) -> str:
    """Where a table lies: `folder` may be the module itself or the release above it. Raises InputError."""
    return tables.locate([folder, storage.join(folder, "hosp")], name)


def records(archive: str) -> Iterator[list[Found]]:
    """Every ECG of record_list.csv, in its order: 800,035 of them, none of which has to be searched for."""
    batches = tables.batches(table(archive, "record_list.csv"), ("path",))
    paths = (path for batch in batches for path in batch["path"].to_pylist())
    return listed(paths, encounters(archive))


def encounters(archive: str, hosp: str | None = None) -> Iterator[pa.RecordBatch]:
    """ENCOUNTERS: every ECG of record_list.csv; age and sex where the folder of MIMIC-IV's hosp tables is given.

    Age is the anchor age plus the years since; MIMIC writes 91 for everyone above 89.
    """
    people = None if hosp is None else patients(hosp)
    for batch in tables.batches(table(archive, "record_list.csv"), ("subject_id", "study_id", "ecg_time")):
        subject = tables.identifiers(batch["subject_id"])
        when = tables.times(batch["ecg_time"])[0]
        age, sex = _age_and_sex(subject, when, people)
        columns = {
            "patient_id": subject,
            "encounter_id": tables.identifiers(batch["study_id"]),
            "start_time": when,
            "age": age,
            "sex": sex,
        }
        yield encounter_rows(DATASET, columns)


def patients(hosp: str) -> pa.Table:
    """`subject_id, gender, anchor_age, anchor_year` of patients.csv: 365,000 rows at most, small enough to hold."""
    columns = ("subject_id", "gender", "anchor_age", "anchor_year")
    found = list(tables.batches(table(hosp, "patients.csv"), columns))
    whole = pa.Table.from_batches(found)
    return whole.set_column(0, "subject_id", tables.identifiers(whole["subject_id"].combine_chunks()))


def subjects(archive: str) -> pa.Array:
    """Every patient with an ECG, to leave the others' labs out."""
    found = [b["subject_id"] for b in tables.batches(table(archive, "record_list.csv"), ("subject_id",))]
    return tables.identifiers(pc.unique(pa.chunked_array(found, pa.string())))


def items(hosp: str) -> dict[str, str]:
    """itemid -> name in d_labitems.csv; the fluid goes with it where that is not blood: `Glucose (Urine)`."""
    names: dict[str, str] = {}
    for batch in tables.batches(table(hosp, "d_labitems.csv"), ("itemid", "label", "fluid")):
        columns = (tables.identifiers(batch["itemid"]), tables.texts(batch["label"]), tables.texts(batch["fluid"]))
        for itemid, label, fluid in zip(*(c.to_pylist() for c in columns), strict=True):
            name = label or f"itemid {itemid}"
            names[itemid] = name if fluid in (None, "", "Blood") else f"{name} ({fluid})"
    return names


def labels(hosp: str, of: pa.Array | None = None, counts: Counts | None = None) -> Iterator[pa.RecordBatch]:
    """LABELS from labevents.csv(.gz), 158 million rows in all.

    of: the patients to keep (`subjects`), None for all. The three sample-quality items and other people's
    results are left out and counted; every other line comes out, in its order.
    """
    counts = Counts() if counts is None else counts
    names = items(hosp)
    odd: list[str] = []
    for batch in tables.batches(table(hosp, "labevents.csv"), LABEVENTS, MORE_OF_LABEVENTS, odd):
        kept = _kept(batch, of, counts)
        if len(kept):
            yield _labels(kept, names, counts)
    yield from labtable.malformed(len(odd), "labevents.csv", counts)


def _kept(batch: pa.RecordBatch, of: pa.Array | None, counts: Counts) -> pa.RecordBatch:
    excluded = pc.is_in(tables.identifiers(batch["itemid"]), pa.array(EXCLUDED))
    others = pa.array(np.zeros(len(batch), dtype=bool))
    if of is not None:
        others = pc.and_not(pc.invert(pc.is_in(tables.identifiers(batch["subject_id"]), of)), excluded)
    for name, left_out in (("excluded_item", excluded), ("patient_without_ecg", others)):
        if pc.any(left_out).as_py():
            counts[name, "labevents.csv"] += pc.sum(left_out).as_py()
    return batch.filter(pc.invert(pc.or_(excluded, others)))


def _labels(batch: pa.RecordBatch, names: dict[str, str], counts: Counts) -> pa.RecordBatch:
    itemid = tables.identifiers(batch["itemid"])
    spoilt = _spoilt(itemid, batch["comments"])
    rows = {
        "patient_id": tables.identifiers(batch["subject_id"]),
        "chart_time": batch["charttime"],
        "store_time": batch["storetime"],
        "lookup": itemid,
        "component": pa.array([names.get(i or "", f"itemid {i}") for i in itemid.to_pylist()], pa.string()),
        "unit": batch["valueuom"],
        "low": batch["ref_range_lower"],
        "high": batch["ref_range_upper"],
        "flag": pc.if_else(spoilt, None, batch["flag"]),
        "reason": pc.if_else(spoilt, str(Reason.HAEMOLYSED), None),
    }
    results = parse_column(batch["value"]).prefer(tables.numbers(batch["valuenum"]))
    results.value[spoilt.to_numpy(zero_copy_only=False)] = np.nan
    return labtable.label_batch(rows, results, DATASET, counts)


def _spoilt(itemid: pa.Array, comments: pa.Array) -> pa.Array:
    """Whether the laboratory wrote of haemolysis beside a result that it falsifies."""
    items = [str(item) for name in FROM_RED_CELLS for item in BY_KEY[name].mimic]
    said = pc.match_substring_regex(pc.fill_null(tables.texts(comments), ""), HAEMOLYSED)
    return pc.and_(said, pc.is_in(itemid, pa.array(items)))


def measurements(archive: str, counts: Counts | None = None) -> Iterator[pa.RecordBatch]:
    """LABELS of what the cart itself measured, one row per ECG and measure; encounter_id is the ECG's study_id.

    Carts write numbers out of range for none (29,999 is common): delays outside 0–5,000 ms and axes outside
    ±360° are sentinels, and so is what is computed from them.
    """
    counts = Counts() if counts is None else counts
    wanted = ("subject_id", "study_id", "ecg_time", *DELAYS, *AXES)
    odd: list[str] = []
    for batch in tables.batches(table(archive, "machine_measurements.csv"), wanted, (), odd):
        columns = {name: _within(batch[name], 0, 5000) for name in DELAYS}
        columns |= {name: _within(batch[name], -360, 360) for name in AXES}
        for measure, (end, start, unit) in MEASURES.items():
            value = columns[end] if start is None else columns[end] - columns[start]
            yield _measure(batch, measure, value, unit, counts)
    yield from labtable.malformed(len(odd), "machine_measurements.csv", counts)


def _measure(batch: pa.RecordBatch, name: str, value: np.ndarray, unit: str, counts: Counts) -> pa.RecordBatch:
    n = len(batch)
    value = np.where(value < 0, np.nan, value) if unit == "ms" else value  # an end before its onset
    reason = np.where(np.isnan(value), str(Reason.SENTINEL), "").astype(object)
    rows = {
        "patient_id": tables.identifiers(batch["subject_id"]),
        "encounter_id": tables.identifiers(batch["study_id"]),
        "chart_time": batch["ecg_time"],
        "component": pa.repeat(name, n),
        "unit": pa.repeat(unit, n),
    }
    return labtable.label_batch(rows, Results.uncensored(value, reason), DATASET, counts)


def _within(column: pa.Array, low: float, high: float) -> np.ndarray:
    number = tables.numbers(column)
    return np.where((number >= low) & (number <= high), number, np.nan)


def _age_and_sex(subject: pa.Array, when: pa.Array, people: pa.Table | None) -> tuple[pa.Array, pa.Array]:
    if people is None:
        return pa.nulls(len(subject), pa.float32()), pa.nulls(len(subject), pa.string())
    found = people.take(pc.index_in(subject, people["subject_id"])).combine_chunks()
    anchor_age, anchor_year = (tables.numbers(found[c].combine_chunks()) for c in ("anchor_age", "anchor_year"))
    year = pc.year(when).cast(pa.float64()).to_numpy(zero_copy_only=False)
    age = np.minimum(anchor_age + year - anchor_year, 91)
    return pa.array(age, pa.float32(), from_pandas=True), tables.sex(found["gender"].combine_chunks())

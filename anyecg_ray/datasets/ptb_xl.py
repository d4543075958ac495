"""PTB-XL: 21,799 clinical 12-lead ECGs of 18,869 patients, with diagnoses, age and sex.

Diagnoses are labels like any other here. `dx_NORM, dx_MI, dx_STTC, dx_CD, dx_HYP` are the five superclasses,
`scp_…` the 71 statements; the value is the cardiologist's likelihood in percent, the flag is `high` where the
diagnosis is stated and `normal` where it is not, and the indicator of either is `present`. Likelihood 0 means
"not told" (all rhythm and form statements have it) and counts as stated, as in the authors' own benchmark.
An encounter is one ECG, because the archive knows no others.
"""

import ast
import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
import pyarrow as pa

from anyecg_ray import labtable, storage, tables
from anyecg_ray.config import Settings
from anyecg_ray.datasets.found import OLDEST, Found, encounter_rows, listed
from anyecg_ray.labtable import Counts
from anyecg_ray.labvalue import Reason, Results

DATASET = "ptb-xl"
COLUMNS = ("ecg_id", "patient_id", "age", "sex", "recording_date", "scp_codes", "strat_fold")
SUPERCLASSES = ("NORM", "MI", "STTC", "CD", "HYP")


class PtbXl(Settings):
    """Which of PTB-XL's files to take."""

    rate: Literal[500, 100] = 500
    """Samples a second: records500 or records100."""


def records(archive: str, settings: PtbXl) -> Iterator[list[Found]]:
    """Every ECG of ptbxl_database.csv, in its order."""
    column = "filename_hr" if settings.rate == 500 else "filename_lr"
    batches = tables.batches(tables.locate([archive], "ptbxl_database.csv"), (column,))
    paths = (path for batch in batches for path in batch[column].to_pylist())
    return listed(paths, encounters(archive))


def encounters(archive: str) -> Iterator[pa.RecordBatch]:
    """ENCOUNTERS: every ECG. Folds 1–8 are train, 9 val, 10 test; ages above 89 come out as 90."""
    for batch in _database(archive):
        age = tables.numbers(batch["age"])
        columns = {
            "patient_id": tables.identifiers(batch["patient_id"]),
            "encounter_id": tables.identifiers(batch["ecg_id"]),
            "start_time": tables.times(batch["recording_date"])[0],
            "age": pa.array(np.where(age > OLDEST, OLDEST + 1, age), pa.float32(), from_pandas=True),
            "sex": pa.array([{0.0: "M", 1.0: "F"}.get(s) for s in tables.numbers(batch["sex"])], pa.string()),
            "split_fold": pa.array([_part(fold) for fold in tables.numbers(batch["strat_fold"])], pa.string()),
        }
        yield encounter_rows(DATASET, columns)


def labels(archive: str, min_likelihood: float = 0, counts: Counts | None = None) -> Iterator[pa.RecordBatch]:
    """LABELS: for every ECG one row per superclass and per statement, `age` and `sex_male`.

    A diagnosis stated with a likelihood below `min_likelihood` (and above 0) is neither there nor absent: its flag
    is null. Superclasses are null for an ECG without any diagnostic statement.
    """
    counts = Counts() if counts is None else counts
    superclass = statements(archive)
    for batch in _database(archive):
        codes = [_codes(text) for text in batch["scp_codes"].to_pylist()]
        for name in superclass:
            stated = [None if c is None else c.get(name) for c in codes]
            known = [c is not None for c in codes]
            yield _diagnosis(batch, f"scp_{name}", stated, known, min_likelihood, counts)
        for name in SUPERCLASSES:
            members = [code for code, above in superclass.items() if above == name]
            stated = [_highest(c, members) for c in codes]
            known = [any(superclass.get(code) for code in c or ()) for c in codes]
            yield _diagnosis(batch, f"dx_{name}", stated, known, min_likelihood, counts)
        yield from _demographics(batch, counts)


def statements(archive: str) -> dict[str, str | None]:
    """SCP statement -> its diagnostic superclass, None for statements of form and rhythm alone."""
    uri = tables.locate([archive], "scp_statements.csv")
    tables.require(uri, tables.columns(uri), ("diagnostic", "diagnostic_class"))
    rows = csv.DictReader(io.StringIO(storage.read_bytes(uri).decode("utf-8-sig")))
    code = (rows.fieldnames or [""])[0]  # this column has no name
    return {r[code]: r["diagnostic_class"] if r["diagnostic"] in ("1", "1.0") else None for r in rows}


def _database(archive: str) -> Iterator[pa.RecordBatch]:
    return tables.batches(tables.locate([archive], "ptbxl_database.csv"), COLUMNS)


def _codes(text: str | None) -> dict[str, float] | None:
    """The dict that a cell spells, e.g. "{'NORM': 80.0, 'SR': 0.0}"; None where it does not."""
    try:
        codes = ast.literal_eval(text or "")
        return {str(code): float(likelihood) for code, likelihood in codes.items()}
    except (ValueError, SyntaxError, TypeError, AttributeError):
        return None


def _highest(codes: Mapping[str, float] | None, members: Sequence[str]) -> float | None:
    """The likelihood of the surest member that is stated; 0 (not told) counts as sure."""
    stated = [codes[m] for m in members if m in codes] if codes else []
    return None if not stated else 0.0 if 0.0 in stated else max(stated)


def _diagnosis(
    batch: pa.RecordBatch,
    name: str,
    stated: Sequence[float | None],
    known: Sequence[bool],
    min_likelihood: float,
    counts: Counts,
) -> pa.RecordBatch:
    """One diagnosis of every ECG. stated: likelihoods, None where not stated; known: whether absence means absent."""
    flags = [
        ("" if not k else "normal") if s is None else ("high" if s == 0 or s >= min_likelihood else "")
        for s, k in zip(stated, known, strict=True)
    ]
    reason = np.array([Reason.UNCERTAIN if flag == "" else "" for flag in flags], dtype=object)
    value = np.array([np.nan if s is None else s for s in stated], dtype=np.float64)
    return _rows(batch, name, Results.uncensored(value, reason), "%", flags, counts)


def _demographics(batch: pa.RecordBatch, counts: Counts) -> Iterator[pa.RecordBatch]:
    age, sex = tables.numbers(batch["age"]), tables.numbers(batch["sex"])
    oldest = np.where(age > OLDEST, ">", "").astype(object)
    missing = np.where(np.isnan(age), str(Reason.EMPTY), "").astype(object)
    yield _rows(batch, "age", Results(np.minimum(age, OLDEST), oldest, missing), "a", [""] * len(age), counts)
    flags = [{0.0: "high", 1.0: "normal"}.get(s, "") for s in sex]
    missing = np.where(np.isnan(sex), str(Reason.EMPTY), "").astype(object)
    male = np.where(np.isnan(sex), np.nan, (sex == 0).astype(np.float64))
    yield _rows(batch, "sex_male", Results.uncensored(male, missing), "", flags, counts)


def _rows(
    batch: pa.RecordBatch, name: str, results: Results, unit: str, flags: Sequence[str], counts: Counts
) -> pa.RecordBatch:
    n = len(batch)
    rows = {
        "patient_id": tables.identifiers(batch["patient_id"]),
        "encounter_id": tables.identifiers(batch["ecg_id"]),
        "chart_time": batch["recording_date"],
        "component": pa.repeat(name, n),
        "unit": pa.repeat(unit, n),
        "flag": pa.array(flags, pa.string()),
    }
    return labtable.label_batch(rows, results, DATASET, counts)


def _part(fold: float) -> str | None:
    if 1 <= fold <= 8:
        return "train"
    return {9.0: "val", 10.0: "test"}.get(fold)

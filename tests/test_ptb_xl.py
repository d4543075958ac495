"""PTB-XL's real database file: 500 ECGs with their diagnoses, ages, sexes and folds."""

import ast
import csv
from collections import Counter
from datetime import UTC, datetime

import pyarrow as pa
import pytest

from anyecg_ray.config import InputError
from anyecg_ray.datasets import ptb_xl
from anyecg_ray.labtable import Counts
from anyecg_ray.schema import ENCOUNTERS, LABELS


@pytest.fixture(scope="module")
def database(data):
    with open(data / "ptbxl-500" / "ptbxl_database.csv") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def table(data):
    batches = list(ptb_xl.labels(str(data / "ptbxl-500")))
    assert all(b.schema == LABELS for b in batches)
    return pa.Table.from_batches(batches)


def column(table, component, name="flag"):
    rows = [r for r in table.to_pylist() if r["component"] == component]
    return {r["encounter_id"]: r[name] for r in rows}


def test_superclasses_agree_with_the_published_counts(table):
    stated = {c: Counter(column(table, f"dx_{c}").values())["high"] for c in ptb_xl.SUPERCLASSES}
    assert stated == {"NORM": 297, "STTC": 96, "CD": 78, "MI": 73, "HYP": 40}


def test_each_statement_is_present_exactly_where_the_database_has_it(table, database):
    for code in ("SR", "IMI", "NST_", "AFIB"):
        expected = {r["ecg_id"]: "high" if code in ast.literal_eval(r["scp_codes"]) else "normal" for r in database}
        assert column(table, f"scp_{code}") == expected
    likelihood = column(table, "scp_NORM", "value")
    assert (likelihood["1"], likelihood["2"]) == (100.0, 80.0)


def test_keys_are_distinct_and_every_ecg_has_every_row(table):
    pairs = table.group_by(["component", "analyte"]).aggregate([([], "count_all")])
    assert len(set(pairs["analyte"].to_pylist())) == len(pairs) == 71 + 5 + 2
    assert set(pairs["count_all"].to_pylist()) == {500}
    assert {"dx_norm", "scp_nst", "age", "sex_male"} <= set(pairs["analyte"].to_pylist())


def test_an_ecg_without_a_diagnostic_statement_is_no_negative(table, database, data):
    superclass = ptb_xl.statements(str(data / "ptbxl-500"))
    bare = [r["ecg_id"] for r in database if not any(superclass[c] for c in ast.literal_eval(r["scp_codes"]))]
    flags, reasons = column(table, "dx_MI"), column(table, "dx_MI", "reason")
    assert {flags[i] for i in bare} <= {None}
    assert {reasons[i] for i in bare} <= {"uncertain"}
    assert sum(f is None for f in flags.values()) == len(bare)


def test_encounters(data, database):
    batches = list(ptb_xl.encounters(str(data / "ptbxl-500")))
    assert all(b.schema == ENCOUNTERS for b in batches)
    rows = pa.Table.from_batches(batches).to_pylist()
    assert len(rows) == 500
    assert Counter(r["split_fold"] for r in rows) == {"train": 353, "val": 81, "test": 66}
    assert sum(r["age"] is None for r in rows) == 4
    first = rows[0]
    assert (first["encounter_id"], first["patient_id"], first["age"], first["sex"]) == ("1", "15709", 56, "F")
    assert (rows[1]["sex"], rows[1]["age"]) == ("M", 19)
    assert first["start_time"] == datetime(1984, 11, 9, 9, 17, 34, tzinfo=UTC)
    parts = {(r["patient_id"], r["split_fold"]) for r in rows}
    assert len({p for p, _ in parts}) == len(parts)  # no patient in two folds
    assert all(r["age"] is None or r["age"] <= 90 for r in rows)


def test_age_and_sex_are_labels_too(table, database):
    age, censored = column(table, "age", "value"), column(table, "age", "censored")
    sex = column(table, "sex_male")
    for r in database:
        written = float(r["age"] or "nan")
        assert age[r["ecg_id"]] == (None if written != written else min(written, 89))
        assert censored[r["ecg_id"]] == (">" if written > 89 else None)
        assert sex[r["ecg_id"]] == ("high" if r["sex"] == "0" else "normal")


HEADER = "ecg_id,patient_id,age,sex,recording_date,scp_codes,strat_fold\n"
STATEMENTS = ",description,diagnostic,form,rhythm,diagnostic_class\nNORM,n,1.0,,,NORM\nIMI,i,1.0,,,MI\nSR,s,,,1.0,\n"


def small(folder, *rows):
    (folder / "ptbxl_database.csv").write_text(HEADER + "".join(rows))
    (folder / "scp_statements.csv").write_text(STATEMENTS)
    return str(folder)


def test_ages_above_89_are_written_as_300(tmp_path):
    archive = small(tmp_path, "1,7.0,300.0,1,1984-11-09 09:17:34,\"{'SR': 0.0}\",9\n")
    (batch,) = ptb_xl.encounters(archive)
    assert batch["age"].to_pylist() == [90]
    table = pa.Table.from_batches(list(ptb_xl.labels(archive)))
    assert (column(table, "age", "value"), column(table, "age", "censored")) == ({"1": 89}, {"1": ">"})


def test_an_unsure_diagnosis_is_neither_there_nor_absent(tmp_path):
    rows = [
        "1,7.0,50,1,1984-11-09 09:17:34,\"{'IMI': 35.0, 'SR': 0.0}\",1\n",
        "2,8.0,50,1,1984-11-09 09:17:34,\"{'IMI': 80.0}\",1\n",
        "3,9.0,50,1,1984-11-09 09:17:34,\"{'NORM': 100.0}\",1\n",
    ]
    archive = small(tmp_path, *rows)
    every = pa.Table.from_batches(list(ptb_xl.labels(archive)))
    sure = pa.Table.from_batches(list(ptb_xl.labels(archive, min_likelihood=50)))
    assert column(every, "dx_MI") == {"1": "high", "2": "high", "3": "normal"}
    assert column(sure, "dx_MI") == {"1": None, "2": "high", "3": "normal"}
    assert column(sure, "scp_SR")["1"] == "high"  # likelihood 0: not told, and rhythms never have one


def test_codes_that_cannot_be_read_make_no_negatives(tmp_path):
    counts = Counts()
    archive = small(tmp_path, "1,7.0,50,1,1984-11-09 09:17:34,__import__('os'),1\n")
    table = pa.Table.from_batches(list(ptb_xl.labels(archive, counts=counts)))
    assert column(table, "scp_SR") == column(table, "dx_MI") == {"1": None}
    assert counts["uncertain", "dx_MI"] == 1


def test_a_missing_column_is_named(tmp_path):
    small(tmp_path)
    (tmp_path / "ptbxl_database.csv").write_text("ecg_id,patient_id,age,sex,recording_date,scp_code,strat_fold\n")
    with pytest.raises(InputError, match=r"ptbxl_database\.csv: no column scp_codes; rename column scp_code"):
        list(ptb_xl.labels(str(tmp_path)))

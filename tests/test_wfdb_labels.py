"""A table of labels of one's own: CSV or Parquet, and what a wrong one is told."""

from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from anyecg_ray.config import InputError
from anyecg_ray.datasets import wfdb
from anyecg_ray.labtable import Counts
from anyecg_ray.schema import ENCOUNTERS, LABELS

TABLE = """patient,time,name,value,unit,low,high,flag
p1,2024-02-01T13:45:00Z,Potassium,">10.0",mEq/L,3.5,5.1,H
p1,2024-02-01 13:45,2951-2,138,mmol/L,136,145,
p2,2290-02-01T13:45:00+01:00,My Own Score,"1,234",points,0,1000,high
p2,2024-02-01T13:45:00Z,SARS-COV-2 RNA,Negative,,,,
"""


def labels(path, counts=None):
    batches = list(wfdb.labels(str(path), counts))
    assert all(b.schema == LABELS for b in batches)
    return pa.Table.from_batches(batches).to_pylist()


def test_a_csv_table(tmp_path):
    (tmp_path / "labels.csv").write_text(TABLE)
    counts = Counts()
    rows = labels(tmp_path / "labels.csv", counts)
    assert [r["analyte"] for r in rows] == ["potassium", "sodium", "my_own_score", "sars_cov_2_rna"]
    assert [(r["value"], r["censored"], r["flag"]) for r in rows[:3]] == [
        (10.0, ">", "high"),
        (138.0, None, None),
        (1234.0, None, "high"),
    ]
    assert [r["unit"] for r in rows] == ["mmol/L", "mmol/L", "points", None]
    assert rows[1]["chart_time"] == datetime(2024, 2, 1, 13, 45, tzinfo=UTC)
    assert rows[2]["chart_time"] == datetime(2290, 2, 1, 12, 45, tzinfo=UTC)
    assert counts == {("categorical", "SARS-COV-2 RNA"): 1}


def test_a_parquet_table_with_types_of_its_own(tmp_path):
    moment = datetime(2024, 2, 1, 13, 45, tzinfo=UTC)
    table = pa.table(
        {
            "name": ["potassium", "glucose"],
            "patient": [17, 18],
            "time": pa.array([moment, None], pa.timestamp("ms", tz="UTC")),
            "value": [5.9, 5.5],
            "unit": pa.array(["mmol/L", "mmol/L"]).dictionary_encode(),
            "high": [5.1, None],
            "encounter": ["v1", None],
            "comment": ["", "not read"],
        }
    )
    pq.write_table(table, tmp_path / "labels.parquet")
    first, second = labels(tmp_path / "labels.parquet")
    assert (first["patient_id"], first["encounter_id"], first["chart_time"]) == ("17", "v1", moment)
    assert (first["value"], first["high"], first["low"]) == (5.9, 5.1, None)
    assert (second["value"], second["unit"]) == (pytest.approx(99.09, abs=0.01), "mg/dL")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("patient,", "subject,"), "no column patient; its first line must name"),
        (("unit,", "untis,"), "no column unit; rename column untis to unit"),
        (("value,", "vlaue,"), "no column value; rename column vlaue to value"),
    ],
)
def test_a_wrong_or_missing_column_is_named_with_the_mend(tmp_path, change, message):
    path = tmp_path / "labels.csv"
    path.write_text(TABLE.replace(*change, 1))
    with pytest.raises(InputError, match=message) as told:
        labels(path)
    assert str(path) in str(told.value)


def test_a_column_that_is_wrong_throughout_is_named_with_the_mend(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("patient,time,name,value\np1,01/02/2023,potassium,4\np1,02/02/2023,potassium,5\n")
    with pytest.raises(InputError, match=r"column time: has no ISO time; write 2024-02-01T13:45:00Z"):
        labels(path)
    path.write_text("patient,time,name,value,high\np1,2024-02-01,potassium,4,up to 5\n")
    with pytest.raises(InputError, match=r"column high: has no number; write the limit alone"):
        labels(path)
    path.write_text("patient,time,name,value\np1,2024-02-01,potassium,4\np1,whenever,potassium,5\n")
    assert [r["reason"] for r in labels(path)] == [None, "bad_time"]


def test_a_table_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match=r"labels\.csv: not there"):
        labels(tmp_path / "labels.csv")


def test_people(tmp_path):
    path = tmp_path / "people.csv"
    path.write_text("patient,encounter,start,age,sex,split\np1,v1,2024-02-01,53,female,train\np2,,,,,\n")
    (batch,) = wfdb.encounters(str(path))
    assert batch.schema == ENCOUNTERS
    first, second = batch.to_pylist()
    assert (first["encounter_id"], first["age"], first["sex"], first["split_fold"]) == ("v1", 53, "F", "train")
    assert (second["encounter_id"], second["age"], second["sex"], second["split_fold"]) == ("p2", None, None, None)
    path.write_text("patient,race,rate,acuity\np1,Asian,70,\n")  # "rate" is no misspelt "race"
    (told,) = next(wfdb.encounters(str(path))).to_pylist()
    assert (told["race"], told["acuity"], told["ethnicity"]) == ("Asian", None, None)
    path.write_text("patient,split\np1,training\n")
    with pytest.raises(InputError, match="column split: has other words; write train, val or test"):
        list(wfdb.encounters(str(path)))

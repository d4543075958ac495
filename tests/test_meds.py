"""MEDS as its own package validates it; no patient becomes another."""

import json

import meds as standard
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from exported import counted, flags, made, run
from test_estimate_rows import SPANS, WHEN

from anyecg_ray import meds
from anyecg_ray.cli import main


@pytest.fixture
def folder(tmp_path):
    """One back-fill of one shard."""
    return made(tmp_path)


def test_meds_is_meds(folder, capsys):
    dest = run(folder, "meds")
    (part,) = (dest / "data").iterdir()
    standard.DataSchema.validate(pq.read_table(part))
    codes = pq.read_table(dest / standard.code_metadata_filepath)
    standard.CodeMetadataSchema.validate(codes)
    told = json.loads((dest / standard.dataset_metadata_filepath).read_text())
    standard.DatasetMetadataSchema.validate(told)
    rows = pq.read_table(part).to_pandas()
    assert rows.subject_id.tolist() == [17, 17]
    assert str(rows.time[0])[:10] == str(WHEN)[:10]
    assert rows.code.tolist() == codes.column("code").to_pylist()
    assert rows.code[0] == "ANYECG//potassium_high//1"
    assert codes.column("parent_codes").to_pylist() == [[], []]  # else an estimate is counted among results
    assert codes.column("loinc").to_pylist() == ["2823-3"] * 2
    assert codes.column("unit").to_pylist() == ["1", "mmol/L"]
    assert counted(capsys.readouterr().out) == {
        "events": 2,
        "rows left out: flat": 2,
        "rows left out: missing_signal": 2,
    }


def test_no_patient_becomes_another(tmp_path, capsys):
    """A patient's own number must not be a number that the table gives to somebody else, nor 007 be 7."""
    made(tmp_path, patients=("17", "5", "007"), spans=SPANS[:1] * 3)
    rows = pq.read_table(run(tmp_path, "meds") / "data").to_pandas()
    assert rows.subject_id.tolist() == [5, 5, 17, 17]
    assert counted(capsys.readouterr().out)["rows left out: no subject_id"] == 2
    (tmp_path / "persons.csv").write_text("patient_id,person_id\n17,5\n")
    rows = pq.read_table(run(tmp_path, "meds", "--persons", tmp_path / "persons.csv") / "data").to_pandas()
    assert rows.subject_id.tolist() == [5, 5]
    assert counted(capsys.readouterr().out)["rows left out: no subject_id"] == 4


@pytest.mark.parametrize("granularity", ["span", "window"])
def test_meds_keeps_a_subject_in_one_file(tmp_path, monkeypatch, granularity):
    monkeypatch.setattr(meds, "ROWS", 5)
    made(tmp_path, patients=("10", "20", "30"), spans=SPANS[:1] * 3, shards=4, granularity=granularity)
    dest = run(tmp_path, "meds")
    parts = sorted((dest / "data").iterdir())
    assert len(parts) == (5 if granularity == "span" else 15)  # of 24 and 72 rows
    tables = [pq.read_table(part).to_pandas() for part in parts]
    subjects = [set(t.subject_id) for t in tables]
    assert sum(map(len, subjects)) == len(set().union(*subjects)) == 3
    assert sum(map(len, tables)) == (24 if granularity == "span" else 48)
    for table in tables:
        ordered = table.sort_values(["subject_id", "time"], kind="stable", ignore_index=True)
        pd.testing.assert_frame_equal(table, ordered)
    monkeypatch.undo()
    run(tmp_path, "meds")
    (only,) = (dest / "data").iterdir()  # what the run with more files left is gone
    assert len(pq.read_table(only)) == sum(map(len, tables))


def test_subjects_spread_whatever_they_are_multiples_of():
    places = meds._places(np.arange(0, 10_000_000, 1000, dtype=np.int64), 100)
    assert np.bincount(places, minlength=100).min() > 50


def test_another_back_fill_of_the_same_model_is_not_overwritten(folder, capsys):
    data = run(folder, "meds") / "data" / "0000.parquet"
    before = data.read_bytes()
    (folder / "other").mkdir()
    assert main(flags(made(folder / "other"), "meds", "--dest", folder / "meds")) == 2
    assert "another MEDS data set" in capsys.readouterr().err
    run(folder, "meds")
    assert data.read_bytes() == before


def test_another_data_set_is_not_overwritten(folder, capsys):
    run(folder, "meds")
    for spoilt in ('{"dataset_name": "the hospital\'s"}', "[]", "no json"):
        (folder / "meds" / "metadata" / "dataset.json").write_text(spoilt)
        assert main(flags(folder, "meds")) == 2
        assert "another MEDS data set" in capsys.readouterr().err
    (folder / "meds" / "metadata" / "dataset.json").unlink()
    assert main(flags(folder, "meds")) == 2
    made(folder, version="2")
    run(folder, "meds", "--dest", folder / "meds2", version="2")

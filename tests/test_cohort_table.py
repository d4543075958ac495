"""What a cohort's table says, without a back-fill: manifest and staged rows are made by hand, in the year 2291."""

from datetime import UTC, date, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_estimate_rows import PROVENANCE

from anyecg_ray import cohort_table, schema
from anyecg_ray.cohort import RESERVED, IndexTimes, Window
from anyecg_ray.config import InputError
from anyecg_ray.ledger import with_provenance
from anyecg_ray.manifest import open_manifest, write_manifest
from anyecg_ray.predict import Shard
from anyecg_ray.weights import untrained

NOON = datetime(2291, 3, 1, 12, tzinfo=UTC)

# (span_id, encounter, patient, minutes after noon or None, logit or None where it could not be scored)
ECGS = [
    ("a-20", "10", "007", -20, 2.0),
    ("a-5", "10", "007", -5, -1.0),
    ("a+5", "10", "007", 5, 1.0),
    ("a-1", "10", "007", -1, None),
    ("a?", "10", "007", None, 3.0),
    ("b-5", "10", "8", -5, 4.0),  # this archive numbers encounters anew for each patient
    ("c-5", "11", None, -5, 0.5),
    ("d-5", None, "9", -5, 0.25),
]


class Staged:
    """A ledger with one scored shard, in any order."""

    def staged(self):
        return {"000000-000000": 0}

    def rows(self, shard):
        told = {
            **_who(ECGS[::-1]),
            "status": ["noisy" if e[4] is None else "ok" for e in ECGS[::-1]],
            "window_start": [[0.0]] * len(ECGS),
            "quality": [[""]] * len(ECGS),
            "values": [[None if e[4] is None else [e[4]]] for e in ECGS[::-1]],
        }
        return with_provenance(_table(told, schema.STAGING), PROVENANCE)


def _who(ecgs):
    return {
        "span_id": [e[0] for e in ecgs],
        "record_id": [e[0] for e in ecgs],
        "dataset": ["wfdb"] * len(ecgs),
        "encounter_id": [e[1] for e in ecgs],
        "patient_id": [e[2] for e in ecgs],
        "start_time": [None if e[3] is None else NOON + timedelta(minutes=e[3]) for e in ecgs],
    }


def _table(columns, fields):
    return pa.table({f.name: pa.array(columns.get(f.name, [None] * len(ECGS)), f.type) for f in fields})


@pytest.fixture(scope="module")
def spans(tmp_path_factory):
    uri = str(tmp_path_factory.mktemp("manifest") / "manifest.parquet")
    told = {**_who(ECGS), "start_sample": [0] * len(ECGS), "status": ["ok"] * len(ECGS)}
    write_manifest(uri, "archive", "wfdb", [_table(told, schema.MANIFEST).cast(schema.MANIFEST)])
    return open_manifest(uri)


@pytest.fixture(scope="module")
def card():
    return untrained("tiny", ["potassium_high"], ["II"], "ecgfounder-finetune", 0).card


@pytest.fixture
def gathered(spans, card, tmp_path):
    """(spans that are chosen, the table) of a cohort, given as the text of a CSV or as an Arrow table."""

    def run(cohort, **window):
        uri = written(tmp_path, cohort)
        cohort = IndexTimes(uri, Window(**window))
        chosen = cohort.choose(spans, [Shard(0, 0, 5), Shard(0, 5, 3)])
        cohort_table.write(cohort, Staged(), card, str(tmp_path / "out"))
        ids = [
            e[0] for s in chosen for e, mine in zip(ECGS[s.offset : s.offset + s.rows], s.mask(), strict=True) if mine
        ]
        return ids, pq.read_table(tmp_path / "out" / "cohort")

    return run


def written(folder, cohort):
    path = folder / ("cohort.csv" if isinstance(cohort, str) else "cohort.parquet")
    path.write_text(cohort) if isinstance(cohort, str) else pq.write_table(cohort, path)
    return str(path)


def p(*logits):
    return 1 / (1 + np.exp(-np.array(logits)))


def test_the_nearest_the_mean_and_the_highest_in_years_beyond_2262(gathered, capsys):
    text = "patient_id,index_time\n007,2291-03-01 12:00:00\n007,2299-01-01\n9,2291-03-01T12:00:00Z\n5,2291-03-01\n"
    ids, table = gathered(text, before=30, after=10)
    assert ids == ["a-20", "a-5", "a+5", "a-1", "d-5"]
    rows = table.to_pylist()
    assert [r["index_time"] for r in rows][:2] == [NOON, datetime(2299, 1, 1, tzinfo=UTC)]
    assert [r["n_spans"] for r in rows] == [3, 0, 1, 0]
    # two are five minutes away: the one before the index time goes first
    assert [r["nearest_span_id"] for r in rows] == ["a-5", None, "d-5", None]
    assert rows[0]["nearest_minutes_before"] == 5
    assert rows[0]["nearest"] == pytest.approx(p(-1.0)[0], rel=1e-6)
    assert rows[0]["mean"] == pytest.approx(p(2, -1, 1).mean(), rel=1e-6)
    assert rows[0]["highest"] == pytest.approx(p(2)[0], rel=1e-6)
    assert rows[1]["nearest"] is rows[1]["mean"] is rows[1]["highest"] is rows[1]["nearest_minutes_before"] is None
    told = "cohort: 4 rows, 2 with an ECG in the window, 1 with ECGs outside of it only, 1 without any in the manifest"
    assert told in capsys.readouterr().out


def test_the_edges_of_the_window_belong_to_it(gathered):
    ids, _ = gathered("patient_id,index_time\n007,2291-03-01 12:00:00\n", before=20, after=5)
    assert ids == ["a-20", "a-5", "a+5", "a-1"]
    ids, _ = gathered("patient_id,index_time\n007,2291-03-01 12:00:00\n", before=19.99, after=4.99)
    assert ids == ["a-5", "a-1"]


def test_without_index_times_there_is_no_nearest(gathered):
    ids, table = gathered("patient_id\n007\n9\n")
    assert ids == ["a-20", "a-5", "a+5", "a-1", "a?", "d-5"]
    assert table.column_names == ["patient_id", "n_spans", "indicator", "mean", "highest", "model_version"]
    assert table["n_spans"].to_pylist() == [4, 1]
    assert table["mean"].to_pylist() == pytest.approx([p(2, -1, 1, 3).mean(), p(0.25)[0]], rel=1e-6)


def test_a_row_is_found_by_what_it_has(gathered):
    _, table = gathered("ward,encounter_id,patient_id\nboth,10,007\nother,10,8\nvisit,11,\nwho,,9\nnone,12,9\nc,11,5\n")
    assert table.column_names[:3] == ["encounter_id", "patient_id", "ward"]
    rows = {r["ward"]: r for r in table.to_pylist()}
    assert {ward: r["n_spans"] for ward, r in rows.items()} == {
        "both": 4,
        "other": 1,  # the same number of another patient
        "visit": 1,
        "who": 1,
        "none": 0,  # the patient is known and the encounter is not
        "c": 1,  # the archive does not say whose the encounter is
    }
    assert (rows["both"]["encounter_id"], rows["both"]["patient_id"]) == ("10", "007")
    assert rows["visit"]["patient_id"] is rows["who"]["encounter_id"] is None
    with pytest.raises(InputError, match="an encounter's id stands for several patients in the manifest"):
        gathered("encounter_id\n10\n")


def test_a_cohort_nobody_of_whom_has_an_ecg(gathered, capsys):
    ids, table = gathered("patient_id,index_time\n7,2291-03-01\n", before=1e6)
    assert ids == []
    assert table["n_spans"].to_pylist() == [0]
    assert "0 with an ECG in the window, 0 with ECGs outside of it only, 1 without any" in capsys.readouterr().out


def test_the_same_row_twice_comes_out_twice_and_chunks_do_not_show(gathered, monkeypatch):
    text = "patient_id,index_time\n" + "007,2291-03-01 12:00:00\n9,2291-03-01 12:00:00\n" * 2
    whole = gathered(text)[1]
    assert whole["n_spans"].to_pylist() == [2, 1, 2, 1]
    monkeypatch.setattr(cohort_table, "CHUNK", 3)
    assert gathered(text)[1].equals(whole)


def test_columns_of_a_parquet_cohort_keep_their_types(gathered):
    zoned = pa.timestamp("ms", tz="America/Los_Angeles")
    own = {
        "n": pa.array([1, None], pa.int16()),
        "x": pa.array([0.5, 1.5]),
        "yes": pa.array([True, False]),
        "when": pa.array([datetime(2291, 1, 1), None], pa.timestamp("ms")),
        "there": pa.array([NOON, None], zoned),
        "day": pa.array([date(2291, 1, 1), None]),
        "ward": pa.array(["A", "B"]).dictionary_encode(),
        "codes": pa.array([["I48"], []]),
        "nothing": pa.nulls(2),
    }
    given = pa.table({"patient_id": pa.array([7, 9]), "index_time": pa.array([NOON, NOON], zoned), **own})
    _, table = gathered(given)
    assert table["patient_id"].to_pylist() == ["7", "9"]
    assert table["index_time"].type == schema.TIME
    for name, column in own.items():
        assert table[name].type == column.type
        assert table[name].to_pylist() == column.to_pylist()


def test_columns_of_a_csv_have_the_type_of_their_cells(gathered):
    text = (
        "patient_id,index_time,n,x,yes,when,day,site,note,long\n"
        "007,2291-03-01,1,7.40,True,2291-03-01T12:00:00Z,2291-03-01,01,1,12345678901234567890\n"
        "9,2291-03-01,,1e-05,False,,2291-02-02,20,a,1\n"
    )
    own = gathered(text)[1].select(["patient_id", "n", "x", "yes", "when", "day", "site", "note", "long"])
    assert own.to_pydict() == {
        "patient_id": ["007", "9"],
        "n": [1, None],
        "x": [7.4, 1e-5],
        "yes": [True, False],
        "when": [NOON, None],
        "day": [date(2291, 3, 1), date(2291, 2, 2)],
        "site": ["01", "20"],
        "note": ["1", "a"],
        "long": ["12345678901234567890", "1"],
    }


@pytest.mark.parametrize("name", RESERVED)
def test_a_column_that_the_output_has_is_refused(tmp_path, name):
    with pytest.raises(InputError, match=f"has a column {name} already; rename yours, such as my_{name}$"):
        IndexTimes(written(tmp_path, f"patient_id,{name}\n1,2\n"), Window())


def test_the_reserved_names_are_those_of_the_output(gathered):
    _, table = gathered("encounter_id,patient_id,index_time\n10,007,2291-03-01\n")
    assert tuple(table.column_names) == ("encounter_id", "patient_id", "index_time", *RESERVED)


def test_what_resembles_the_other_id_is_a_column_of_ones_own(gathered):
    _, table = gathered("patient_id,encounter_type\n007,ED\n")
    assert table["encounter_type"].to_pylist() == ["ED"]


def test_a_resume_may_bring_more_columns_and_not_other_people(tmp_path):
    def name(text, **window):
        return IndexTimes(written(tmp_path, text), Window(**window)).fingerprint

    first = name("patient_id,index_time\n7,2291-03-01\n")
    assert first == name("patient_id,index_time,ward\n7,2291-03-01 00:00:00,A\n")
    assert first != name("encounter_id,index_time\n7,2291-03-01\n")
    assert first != name("patient_id,index_time\n8,2291-03-01\n")
    assert first != name("patient_id,index_time\n7,2291-03-01 00:00:01\n")
    assert first != name("patient_id,index_time\n7,2291-03-01\n", before=1)

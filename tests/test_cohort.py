"""A cohort chooses the ECGs around its index times, and nothing else; what it says of them is plain arithmetic."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from anyecg_ray.backfill import Backfill, backfill
from anyecg_ray.cli import main
from anyecg_ray.cohort import IndexTimes, Window
from anyecg_ray.config import InputError
from anyecg_ray.manifest import Manifest, manifest, read_rows
from anyecg_ray.synthetic import write_archive
from anyecg_ray.weights import Init, init


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    write_archive(str(folder / "archive"), encounters=12, seed=5, minutes=2, workers=1)
    out = str(folder / "manifest.parquet")
    manifest(Manifest(archive=str(folder / "archive"), dataset="mc-med", out=out, max_span=30, workers=0))
    init(Init(out=str(folder / "bundle"), preset="tiny", indicators=["potassium_high", "potassium_value"]))
    return folder


@pytest.fixture(scope="module")
def spans(place):
    rows = read_rows(str(place / "manifest.parquet"), 0).to_pandas()
    return rows[rows.start_time.notna() & (rows.status == "ok")]


def cohort(place, rows, name="cohort.csv"):
    path = place / name
    pd.DataFrame(rows).to_csv(path, index=False)
    return str(path)


def scored(place, name, file, **window):
    job = Backfill(
        manifest=str(place / "manifest.parquet"), bundle=str(place / "bundle"), out=str(place / name), cohort=file,
        window=Window(**window), precision="float32", shard_spans=7,
    )  # fmt: skip
    backfill(job)
    staged = pd.read_parquet(place / name / "staging")
    table = pd.read_parquet(place / name / "cohort")
    return staged, table, pd.read_parquet(place / name / "ecg_lab_estimate")


def test_only_what_lies_in_the_window_is_scored_and_gathered(place, spans, on_ray):
    one, other = spans.encounter_id.value_counts().index[:2]
    mine = spans[spans.encounter_id == one].sort_values("start_time")
    index = mine.start_time.iloc[2].to_pydatetime() + timedelta(seconds=40)
    rows = [
        {"encounter_id": one, "index_time": index, "ward": "A"},
        {"encounter_id": other, "index_time": datetime(2500, 1, 1, tzinfo=UTC), "ward": "B"},
    ]
    staged, table, published = scored(place, "out", cohort(place, rows), before=1.2, after=0)
    expected = mine[(mine.start_time <= index) & (mine.start_time >= index - timedelta(minutes=1.2))]
    assert 0 < len(expected) < len(mine)
    assert set(staged.span_id) == set(expected.span_id)
    assert len(table) == 4  # two members, two indicators
    assert table.ward.tolist() == ["A", "A", "B", "B"]
    ok = published[(published.status == "ok") & (published.indicator == "potassium_high")].set_index("span_id")
    first = table[(table.ward == "A") & (table.indicator == "potassium_high")].iloc[0]
    assert first.n_spans == len(ok)
    last = ok.sort_values("ecg_time").iloc[-1]
    assert first.nearest_span_id == last.name
    assert first.nearest == pytest.approx(last.probability)
    assert first["mean"] == pytest.approx(ok.probability.mean(), rel=1e-5)
    assert first.highest == pytest.approx(ok.probability.max())
    assert first.nearest_minutes_before == pytest.approx((index - last.ecg_time).total_seconds() / 60, rel=1e-5)
    assert table[table.ward == "B"][["nearest", "mean", "highest"]].isna().all(axis=None)
    assert (table[table.ward == "B"].n_spans == 0).all()


def test_without_index_times_every_ecg_of_a_patient(place, spans, on_ray):
    who = spans.patient_id.iloc[0]
    path = place / "who.parquet"
    pd.DataFrame({"patient_id": [who], "n": [3], "seen": [datetime(2299, 1, 1, tzinfo=UTC)]}).to_parquet(path)
    staged, table, _ = scored(place, "all", str(path))
    everything = read_rows(str(place / "manifest.parquet"), 0).to_pandas()
    assert set(staged.span_id) == set(everything[everything.patient_id == who].span_id)
    assert len(table) == 2
    assert np.isfinite(table["mean"]).all()
    assert table.n.tolist() == [3, 3]


def test_another_cohort_does_not_go_into_the_same_output(place, spans, on_ray):
    who = cohort(place, [{"patient_id": spans.patient_id.iloc[0]}], "first.csv")
    scored(place, "claimed", who)
    other = cohort(place, [{"patient_id": spans.patient_id.iloc[-1]}], "second.csv")
    with pytest.raises(InputError, match="cohort differ"):
        scored(place, "claimed", other)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("patient,index_time\n1,2020-01-01\n", "rename column patient to patient_id"),
        ("mrn\n1\n", "no column patient_id or encounter_id"),
        ("patient_id,index_time\n1,yesterday\n", "index_time of line 2 is no time"),
        ("patient_id,index_time\n1,2020-01-01\n2,\n", "index_time of line 3 is no time"),
        ("patient_id,index_time\n,2020-01-01\n", "line 2 has no patient_id"),
        ("patient_id,encounter_id\n1,2\n,\n", "line 3 has no encounter_id and no patient_id"),
        ("patient_id\n", "there is no row below the header"),
        ("patient_id,mean\n1,2\n", "has a column mean already"),
        ("patient_id,ward,ward\n1,2,3\n", "column ward is there twice"),
        ("patient_id,ward\n1,2\n3\n", "1 lines have more or fewer cells"),
    ],
)
def test_a_table_that_cannot_be_used_is_one_line(place, tmp_path, text, told, capsys):
    path = tmp_path / "cohort.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=told):
        IndexTimes(str(path), Window())
    flags = ["--manifest", str(place / "manifest.parquet"), "--bundle", str(place / "bundle")]
    assert main(["backfill", *flags, "--out", str(tmp_path / "out"), "--cohort", str(path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1

"""Columns of OMOP and of its waveform extension, and a list of what nobody could check."""

from dataclasses import replace

import pandas as pd
import pyarrow.parquet as pq
import pytest
from exported import counted, made, name, run
from test_estimate_rows import WHEN

from anyecg_ray import omop
from anyecg_ray.model import load, save_card


@pytest.fixture
def folder(tmp_path):
    """One back-fill of one shard."""
    return made(tmp_path)


def test_omop_features_and_what_nobody_could_check(folder, capsys):
    (folder / "waveforms.csv").write_text(
        "record_id,waveform_occurrence_id,waveform_registry_id,waveform_channel_metadata_id\ns0,1,2,3\n"
    )
    (folder / "persons.csv").write_text("patient_id,person_id\n17,1700\n")
    dest = run(folder, "omop", "--waveforms", folder / "waveforms.csv", "--persons", folder / "persons.csv")
    table = pq.read_table(dest / "waveform_feature" / f"{name(folder)}-000000-000000.parquet")
    assert table.schema.equals(omop.FEATURE)
    rows = table.to_pandas()
    assert rows.waveform_occurrence_id.tolist() == [1, 1]
    assert rows.person_id.tolist() == [1700, 1700]
    assert rows.unit_source_value.tolist() == ["1", "mmol/L"]
    assert (rows.algorithm_concept_id == 0).all()
    assert rows.waveform_feature_id.is_unique
    assert rows.waveform_feature_end_timestamp.isna().all()
    assert counted(capsys.readouterr().out) == {
        "rows left out: flat": 2,
        "rows left out: missing_signal": 2,
        "rows of waveform_feature": 2,
        "concept ids that nobody could check": 4,
    }
    listed = pd.read_csv(dest / f"unchecked_concepts-waveform_feature-{name(folder)}.csv")
    assert listed.values.tolist() == [
        ["algorithm_concept_id", "ANYECG//potassium_high//1", 1],
        ["algorithm_concept_id", "ANYECG//potassium_value//1", 1],
        ["unit_concept_id", "1", 1],
        ["unit_concept_id", "mmol/L", 1],
    ]
    assert not (dest / "measurement").exists()


def test_omop_without_tables_says_which_ids_are_missing(folder, capsys):
    rows = pq.read_table(run(folder, "omop") / "waveform_feature").to_pandas()
    assert rows.person_id.isna().all()
    assert rows.person_source_value.tolist() == ["17", "17"]
    assert rows.waveform_occurrence_source_value.tolist() == ["s0", "s0"]
    told = counted(capsys.readouterr().out)
    assert all(told[f"of them without {name}"] == 2 for name in omop.FOREIGN["waveform_feature"])


def test_a_window_has_an_end(tmp_path):
    rows = pq.read_table(run(made(tmp_path, granularity="window"), "omop") / "waveform_feature").to_pandas()
    assert len(rows) == 4
    lasts = rows.waveform_feature_end_timestamp - rows.waveform_feature_start_timestamp
    assert set(lasts) == {pd.Timedelta(seconds=10)}


def test_the_end_is_as_far_off_as_the_model_s_windows_are_long(tmp_path):
    folder = made(tmp_path, granularity="window")
    bundle = load(str(folder / "b1"))
    recipe = replace(bundle.recipe, seconds=5.0)
    told = {"recipe": recipe.to_dict(), "preprocess_fingerprint": recipe.fingerprint()}
    save_card(bundle.card.model_copy(update=told), str(folder / "b1"))
    rows = pq.read_table(run(folder, "omop") / "waveform_feature").to_pandas()
    lasts = rows.waveform_feature_end_timestamp - rows.waveform_feature_start_timestamp
    assert set(lasts) == {pd.Timedelta(seconds=5)}


def test_measurement_only_when_asked_for(folder, capsys):
    (folder / "persons.csv").write_text("patient_id,person_id\n17,1700\n")
    dest = run(folder, "omop", "--measurement", "--persons", folder / "persons.csv")
    rows = pq.read_table(dest / "measurement")
    assert rows.schema.equals(omop.MEASUREMENT)
    assert rows.column("person_id").to_pylist() == [1700, 1700]
    assert rows.column("measurement_source_value").to_pylist() == [
        "ANYECG//potassium_high//1",
        "ANYECG//potassium_value//1",
    ]
    assert rows.column("measurement_date").to_pylist() == [WHEN.date()] * 2
    assert not (dest / "waveform_feature").exists()

"""Exports hold to the standards' own models, and every row is in them or counted."""

import json
from collections import Counter
from importlib import resources

import meds as standard
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fhir.resources.R4B.bundle import Bundle
from fhir.resources.R4B.device import Device
from fhir.resources.R4B.observation import Observation
from test_publish import SPANS, WHEN, staging

from anyecg_ray import absence, export, fhir, meds, omop, schema, storage
from anyecg_ray.cli import main
from anyecg_ray.ledger import Ledger
from anyecg_ray.model import IndicatorCard, load, save
from anyecg_ray.publish import publishable
from anyecg_ray.weights import untrained

HIGH = IndicatorCard(
    key="potassium_high", analyte="potassium", name="Potassium", direction="high", loinc="2823-3", unit="mmol/L",
    threshold=0.6,
)  # fmt: skip
VALUE = IndicatorCard(
    key="potassium_value", analyte="potassium", name="Potassium", direction="value", loinc="2823-3", unit="mmol/L",
    offset=4, scale=0.5,
)  # fmt: skip


def made(where, patients=("17", "P-2", None), version="1", granularity="span", spans=SPANS, shards=1):
    """A back-fill of three spans a shard: one with an estimate, one flat, one without its file."""
    bundle = untrained("tiny", ["potassium_high", "potassium_value"], ["II"], "ecgfounder-finetune", 0)
    card = bundle.card.model_copy(update={"indicators": [HIGH, VALUE], "model_version": version})
    save(type(bundle)(card, bundle.state), str(where / f"b{version}"))
    ledger = Ledger(str(where / "out"), card.model_id, version)
    ledger.claim({"granularity": granularity, "row_groups": [], "weights_sha256": card.weights_sha256})
    for shard in range(shards):
        rows = staging(spans)
        told = {
            "span_id": [f"{shard}-{i}#0" for i in range(len(spans))],
            "patient_id": pa.array(patients, pa.string()),
            "model_id": [card.model_id] * len(spans),
            "model_version": [version] * len(spans),
        }
        for name, values in told.items():
            rows = rows.set_column(rows.column_names.index(name), schema.STAGING.field(name), pa.array(values))
        ledger.stage(f"000000-00000{shard}", rows)
    return where


@pytest.fixture
def folder(tmp_path):
    """One back-fill of one shard."""
    return made(tmp_path)


def flags(folder, to, *more, version="1"):
    told = ["--out", folder / "out", "--bundle", folder / f"b{version}", "--dest", folder / to, "--to", to]
    return ["export", *map(str, told), *map(str, more)]


def run(folder, to, *more, version="1"):
    assert main(flags(folder, to, *more, version=version)) == 0
    return folder / to


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def counted(printed):
    """What an export printed, as a Counter."""
    told = (line.strip().partition(" ") for line in printed.splitlines() if line.startswith("  "))
    return Counter({what: int(n.replace(",", "")) for n, _, what in told})


def test_fhir_is_fhir(folder, capsys):
    dest = run(folder, "fhir")
    (device,) = lines(dest / "Device-1.ndjson")
    Device.model_validate(device)
    path = dest / "Observation-1-000000-000000.ndjson"
    found = lines(path)
    assert counted(capsys.readouterr().out) == {
        "Observations": 6,
        "of them without an estimate: flat": 2,
        "of them without an estimate: missing_signal": 2,
    }
    for resource in found:
        Observation.model_validate(resource)
        assert resource["status"] == "preliminary"
        assert resource["meta"]["security"] == [
            {
                "system": "http://terminology.hl7.org/CodeSystem/v3-ObservationValue",
                "code": "AIAST",
                "display": "Artificial Intelligence asserted",
            }
        ]
        assert resource["device"]["reference"] == f"Device/{device['id']}"
        assert resource["derivedFrom"][0]["identifier"]["value"].endswith("#0")
        assert not any(c["system"] == "http://loinc.org" for c in resource["code"]["coding"])
        assert "Not a measurement" in resource["note"][0]["text"]
    assert len({r["id"] for r in found}) == 6
    before = path.read_bytes()
    run(folder, "fhir")
    assert path.read_bytes() == before  # the same ids again


def test_what_an_observation_says(folder):
    high, value, flat, _, missing, _ = lines(run(folder, "fhir") / "Observation-1-000000-000000.ndjson")
    row, other = publishable(staging(SPANS), load(str(folder / "b1")).card).to_pylist()[:2]
    assert high["valueQuantity"]["code"] == "1"
    assert high["valueQuantity"]["value"] == pytest.approx(row["probability"], abs=1e-6)
    assert "at or above" in high["interpretation"][0]["text"]  # 0.73, threshold 0.6
    assert [c["code"]["coding"][0]["code"] for c in high["component"]] == ["2823-3"]
    assert "valueQuantity" not in high["component"][0]  # a probability is no concentration of potassium
    assert value["valueQuantity"] == {
        "value": pytest.approx(other["value"]),
        "unit": "mmol/L",
        "system": "http://unitsofmeasure.org",
        "code": "mmol/L",
    }
    loinc, interval = value["component"]
    assert loinc["valueQuantity"] == value["valueQuantity"]
    assert interval["valueRange"]["low"]["value"] == pytest.approx(other["lower"])
    assert interval["valueRange"]["high"]["value"] == pytest.approx(other["upper"])
    assert value["subject"]["identifier"]["value"] == "17"
    assert flat["dataAbsentReason"]["text"] == "flat"
    assert flat["dataAbsentReason"]["coding"][0]["code"] == "not-performed"
    assert missing["dataAbsentReason"]["coding"][0]["code"] == "error"
    assert "subject" not in missing


def test_a_window_that_was_not_used_is_not_absent_because_ok(tmp_path, capsys):
    dest = run(made(tmp_path, granularity="window"), "fhir")
    found = lines(dest / "Observation-1-000000-000000.ndjson")
    assert found[2]["dataAbsentReason"]["text"] == "window not used"
    assert counted(capsys.readouterr().out)["of them without an estimate: window not used"] == 2
    assert len({r["id"] for r in found}) == len(found) == 10


def test_numbers_that_are_none_never_reach_a_file(folder):
    card = load(str(folder / "b1")).card
    row = publishable(staging(SPANS), card).to_pylist()[0] | {"probability": float("inf")}
    (found,) = fhir.observations([row], card)
    assert "valueQuantity" not in found
    assert found["dataAbsentReason"]["text"] == "number not finite"
    table = pa.Table.from_pylist([row], schema=schema.ECG_LAB_ESTIMATE)
    assert len(absence.estimated(table, counts := Counter())) == 0
    assert counts == {"rows left out: number not finite": 1}


def test_a_bundle_for_the_endpoint_refers_to_its_own_entries(folder):
    card = load(str(folder / "b1")).card
    rows = publishable(staging(SPANS), card).to_pylist()
    told = fhir.bundle(rows, card)
    assert len(Bundle.model_validate(told).entry) == 7
    device, *observations = told["entry"]
    assert device["fullUrl"].startswith("urn:uuid:")
    assert {o["resource"]["device"]["reference"] for o in observations} == {device["fullUrl"]}
    assert len({e["fullUrl"] for e in told["entry"]}) == 7
    assert told == fhir.bundle(rows, card)


def test_every_label_of_the_published_model_is_a_code(folder):
    """FHIR forbids codes with a space too many; ECGFounder's labels are whole phrases."""
    card = load(str(folder / "b1")).card
    row = publishable(staging(SPANS), card).to_pylist()[0]
    labels = (resources.files("anyecg_ray") / "labels" / "ecgfounder_150.txt").read_text().splitlines()
    assert len(labels) == 150
    for label in labels:
        (found,) = fhir.observations([row | {"indicator": label, "analyte": None, "loinc": None}], card)
        Observation.model_validate(found)
    names = {omop.source(label, "0123456789ab", omop.SOURCE_LETTERS) for label in labels}
    assert len(names) == 150
    assert max(map(len, names)) <= omop.SOURCE_LETTERS


def test_versions_lie_beside_each_other(tmp_path):
    for version in ("1", "2"):
        made(tmp_path, version=version)
        run(tmp_path, "fhir", version=version)
        run(tmp_path, "omop", version=version)
    found = [r for f in sorted((tmp_path / "fhir").glob("Observation-*")) for r in lines(f)]
    assert len({r["id"] for r in found}) == len(found) == 12
    assert len(list((tmp_path / "fhir").glob("Device-*"))) == 2
    features = pq.read_table(tmp_path / "omop" / "waveform_feature").to_pandas()
    assert len(features) == 4
    assert features.waveform_feature_id.is_unique


def test_omop_features_and_what_nobody_could_check(folder, capsys):
    (folder / "waveforms.csv").write_text(
        "record_id,waveform_occurrence_id,waveform_registry_id,waveform_channel_metadata_id\ns0,1,2,3\n"
    )
    (folder / "persons.csv").write_text("patient_id,person_id\n17,1700\n")
    dest = run(folder, "omop", "--waveforms", folder / "waveforms.csv", "--persons", folder / "persons.csv")
    table = pq.read_table(dest / "waveform_feature" / "1-000000-000000.parquet")
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
    listed = pd.read_csv(dest / "unchecked_concepts-waveform_feature-1.csv")
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


def test_a_measurement_without_a_date_is_left_out(folder, monkeypatch, capsys):
    whole = export.publishable

    def timeless(*given):
        rows = whole(*given)
        return rows.set_column(4, rows.schema.field("ecg_time"), pa.nulls(len(rows), schema.TIME))

    monkeypatch.setattr(export, "publishable", timeless)
    assert len(pq.read_table(run(folder, "omop", "--measurement") / "measurement")) == 0
    assert counted(capsys.readouterr().out)["rows left out: no time"] == 2
    run(folder, "meds")
    assert counted(capsys.readouterr().out)["rows left out: no time"] == 2


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


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("patient_id\nSECRET\n", "no column person_id"),
        ("patient_id,person_id\nSECRET,x\n", "row 1: patient_id, person_id must be there, all ids whole numbers"),
        ("patient_id,person_id\nSECRET,99999999999999999999\n", "whole numbers"),
        ("patient_id,person_id\nP,1\nSECRET,1\nSECRET,2\n", "row 3: its patient_id stood above with other ids"),
    ],
)
def test_a_table_of_persons_that_cannot_be_used(folder, text, told, capsys):
    (folder / "persons.csv").write_text(text)
    assert main(flags(folder, "meds", "--persons", folder / "persons.csv")) == 2
    said = capsys.readouterr().err
    assert told in said
    assert "SECRET" not in said


def test_a_bundle_that_did_not_score_it_is_refused(folder, capsys):
    other = untrained("tiny", ["potassium_high", "potassium_value"], ["II"], "ecgfounder-finetune", 1)
    card = other.card.model_copy(update={"indicators": [HIGH, VALUE], "model_version": "1"})
    save(type(other)(card, other.state), str(folder / "b1"))
    assert main(flags(folder, "fhir")) == 2
    assert "not the weights" in capsys.readouterr().err
    assert not (folder / "fhir").exists()


def test_a_bucket_takes_it(folder, s3, capsys):
    for to in ("fhir", "omop", "meds"):
        for _ in range(2):
            assert main(flags(folder, to, "--dest", f"{s3}/{to}")) == 0
    assert storage.list_folder(f"{s3}/fhir")[1] == ["Device-1.ndjson", "Observation-1-000000-000000.ndjson"]
    here = run(folder, "fhir") / "Observation-1-000000-000000.ndjson"
    assert storage.read_bytes(f"{s3}/fhir/Observation-1-000000-000000.ndjson") == here.read_bytes()
    with storage.open_input(f"{s3}/meds/data/0000.parquet") as file:
        standard.DataSchema.validate(pq.read_table(file))


def test_observations_are_written_as_they_are_made(folder, monkeypatch):
    """Never a whole shard of them in memory."""
    sizes = []
    whole = fhir.observations

    def seen(rows, card):
        sizes.append(len(rows))
        return whole(rows, card)

    monkeypatch.setattr(export, "AT_ONCE", 4)
    monkeypatch.setattr(fhir, "observations", seen)
    assert len(lines(run(folder, "fhir") / "Observation-1-000000-000000.ndjson")) == 6
    assert sizes == [4, 2]


def test_a_real_back_fill_goes_through_all_three(tmp_path, on_ray, capsys):
    """From made ECGs to each standard, as a user would."""
    a, m, b, out = (str(tmp_path / n) for n in ("archive", "manifest.parquet", "bundle", "out"))
    assert main(["synth", "--out", a, "--encounters", "4", "--minutes", "1"]) == 0
    assert main(["manifest", "--archive", a, "--dataset", "mc-med", "--out", m]) == 0
    assert main(["init", "--preset", "tiny", "--out", b]) == 0
    assert main(["backfill", "--manifest", m, "--bundle", b, "--out", out]) == 0
    capsys.readouterr()
    told = {}
    for to in ("fhir", "omop", "meds"):
        assert main(["export", "--out", out, "--bundle", b, "--to", to, "--dest", str(tmp_path / to)]) == 0
        told[to] = counted(capsys.readouterr().out)
    table = pd.read_parquet(f"{out}/ecg_lab_estimate")
    with_estimate = int(table.probability.notna().sum())
    assert with_estimate > 0
    observations = [r for f in (tmp_path / "fhir").glob("Observation-*") for r in lines(f)]
    for resource in observations:
        Observation.model_validate(resource)
    assert len(observations) == len(table) == told["fhir"]["Observations"]
    assert sum("valueQuantity" in r for r in observations) == with_estimate
    features = pq.read_table(tmp_path / "omop" / "waveform_feature").to_pandas()
    assert sorted(features.value_as_number) == pytest.approx(sorted(table.probability.dropna()))
    events = pq.read_table(tmp_path / "meds" / "data")
    standard.DataSchema.validate(events)
    assert len(events) == told["meds"]["events"]
    left = sum(n for what, n in told["meds"].items() if what.startswith("rows left out"))
    assert len(events) + left == len(table)

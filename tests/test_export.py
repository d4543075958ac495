"""Exports hold to the standards' own models, and every row is in them or counted."""

import json

import meds as standard
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fhir.resources.R4B.bundle import Bundle
from fhir.resources.R4B.device import Device
from fhir.resources.R4B.observation import Observation
from test_publish import SPANS, WHEN, staging

from anyecg_ray import fhir, omop, schema
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


@pytest.fixture
def folder(tmp_path):
    """A back-fill of three spans: one with an estimate, one flat, one without its file."""
    bundle = untrained("tiny", ["potassium_high", "potassium_value"], ["II"], "ecgfounder-finetune", 0)
    save(type(bundle)(bundle.card.model_copy(update={"indicators": [HIGH, VALUE]}), bundle.state), str(tmp_path / "b"))
    card = load(str(tmp_path / "b")).card
    ledger = Ledger(str(tmp_path / "out"), card.model_id, card.model_version)
    ledger.claim({"granularity": "span", "row_groups": []})
    rows = staging(SPANS)
    told = {
        "patient_id": ["17", "P-2", None],
        "model_id": [card.model_id] * 3,
        "model_version": [card.model_version] * 3,
    }
    for name, values in told.items():
        rows = rows.set_column(rows.column_names.index(name), schema.STAGING.field(name), pa.array(values))
    ledger.stage("000000-000000", rows)
    return tmp_path


def run(folder, to, *more):
    flags = ["--out", str(folder / "out"), "--bundle", str(folder / "b"), "--dest", str(folder / to), "--to", to, *more]
    assert main(["export", *flags]) == 0
    return folder / to


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_fhir_is_fhir(folder, capsys):
    dest = run(folder, "fhir")
    (device,) = lines(dest / "Device.ndjson")
    Device.model_validate(device)
    found = lines(dest / "Observation-000000-000000.ndjson")
    assert len(found) == 6
    assert "6 Observations, 4 of them without an estimate" in capsys.readouterr().out
    for resource in found:
        Observation.model_validate(resource)
        assert resource["status"] == "preliminary"
        assert resource["meta"]["security"][0]["code"] == "AIAST"
        assert resource["device"]["reference"] == f"Device/{device['id']}"
        assert not any(c["system"] == "http://loinc.org" for c in resource["code"]["coding"])
        assert "Not a measurement" in resource["note"][0]["text"]
    assert len({r["id"] for r in found}) == 6
    high, value = found[:2]
    assert high["valueQuantity"]["code"] == "1"
    assert 0 < high["valueQuantity"]["value"] < 1
    assert value["valueQuantity"]["code"] == "mmol/L"
    codes = [c["coding"][0]["code"] for c in (x["code"] for x in value["component"])]
    assert codes == ["2823-3", "lower", "upper"]
    assert value["subject"]["identifier"]["value"] == "17"
    assert found[2]["dataAbsentReason"]["text"] == "flat"
    assert "subject" not in found[4]
    before = (dest / "Observation-000000-000000.ndjson").read_bytes()
    run(folder, "fhir")
    assert (dest / "Observation-000000-000000.ndjson").read_bytes() == before  # the same ids again


def test_a_bundle_for_the_endpoint(folder):
    card = load(str(folder / "b")).card
    rows = publishable(staging(SPANS), card).to_pylist()
    found = Bundle.model_validate(fhir.bundle(rows, card))
    assert len(found.entry) == 7


def test_omop_features_and_what_nobody_could_check(folder, capsys):
    (folder / "waveforms.csv").write_text(
        "record_id,waveform_occurrence_id,waveform_registry_id,waveform_channel_metadata_id\ns0,1,2,3\n"
    )
    dest = run(folder, "omop", "--waveforms", str(folder / "waveforms.csv"))
    table = pq.read_table(dest / "waveform_feature")
    assert table.schema.equals(omop.FEATURE)
    rows = table.to_pandas()
    assert len(rows) == 2
    assert rows.waveform_occurrence_id.tolist() == [1, 1]
    assert rows.unit_source_value.tolist() == ["1", "mmol/L"]
    assert (rows.algorithm_concept_id == 0).all()
    assert rows.waveform_feature_id.is_unique
    assert "4 rows left out: no estimate" in capsys.readouterr().out
    listed = pd.read_csv(dest / "unchecked_concepts.csv")
    assert set(listed.table) == {"waveform_feature"}
    assert not (dest / "measurement").exists()


def test_measurement_only_when_asked_for(folder, capsys):
    (folder / "persons.csv").write_text("patient_id,person_id\n17,1700\n")
    dest = run(folder, "omop", "--measurement", "--persons", str(folder / "persons.csv"))
    rows = pq.read_table(dest / "measurement")
    assert rows.schema.equals(omop.MEASUREMENT)
    assert rows.column("person_id").to_pylist() == [1700, 1700]
    assert rows.column("measurement_source_value")[0].as_py().startswith("ANYECG//potassium_high//")
    assert not (dest / "waveform_feature").exists()


def test_meds_is_meds(folder, capsys):
    dest = run(folder, "meds")
    (part,) = (dest / "data").iterdir()
    standard.DataSchema.validate(pq.read_table(part))
    standard.CodeMetadataSchema.validate(pq.read_table(dest / standard.code_metadata_filepath))
    standard.DatasetMetadataSchema(**json.loads((dest / standard.dataset_metadata_filepath).read_text()))
    rows = pq.read_table(part).to_pandas()
    assert rows.subject_id.tolist() == [17, 17]
    assert str(rows.time[0])[:10] == str(WHEN)[:10]
    assert set(rows.code) <= set(pq.read_table(dest / "metadata" / "codes.parquet").column("code").to_pylist())
    assert "2 events, " in (said := capsys.readouterr().out) or "2 events" in said
    assert "4 rows left out: no estimate" in said


def test_meds_takes_subjects_from_a_table(folder):
    (folder / "persons.csv").write_text("patient_id,person_id\n17,5\n")
    rows = pq.read_table(run(folder, "meds", "--persons", str(folder / "persons.csv")) / "data").to_pandas()
    assert rows.subject_id.tolist() == [5, 5]


@pytest.mark.parametrize(
    ("text", "told"),
    [("patient_id\n17\n", "no column person_id"), ("patient_id,person_id\n17,x\n", "are no whole numbers")],
)
def test_a_table_of_persons_that_cannot_be_used(folder, text, told, capsys):
    (folder / "persons.csv").write_text(text)
    flags = ["--out", str(folder / "out"), "--bundle", str(folder / "b"), "--dest", str(folder / "x"), "--to", "meds"]
    assert main(["export", *flags, "--persons", str(folder / "persons.csv")]) == 2
    assert told in capsys.readouterr().err

"""What is written as FHIR holds to FHIR's models, and says what the table says.

The models are of R4B, for fhir.resources has none of R4: Observation, Device and Bundle have the same elements in both.
"""

from importlib import resources

import pytest
from exported import counted, lines, made, name, run
from fhir.resources.R4B.bundle import Bundle
from fhir.resources.R4B.device import Device
from fhir.resources.R4B.observation import Observation
from test_estimate_rows import SPANS, staging

from anyecg_ray import fhir, omop
from anyecg_ray.estimate_rows import publishable
from anyecg_ray.model import load


@pytest.fixture
def folder(tmp_path):
    """One back-fill of one shard."""
    return made(tmp_path)


def test_fhir_is_fhir(folder, capsys):
    dest = run(folder, "fhir")
    (device,) = lines(dest / f"Device-{name(folder)}.ndjson")
    Device.model_validate(device)
    path = dest / f"Observation-{name(folder)}-000000-000000.ndjson"
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
    high, value, flat, _, missing, _ = lines(run(folder, "fhir") / f"Observation-{name(folder)}-000000-000000.ndjson")
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
    found = lines(dest / f"Observation-{name(tmp_path)}-000000-000000.ndjson")
    assert found[2]["dataAbsentReason"]["text"] == "window not used"
    assert counted(capsys.readouterr().out)["of them without an estimate: window not used"] == 2
    assert len({r["id"] for r in found}) == len(found) == 10


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

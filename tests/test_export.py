"""Every row is in an export or counted, whichever the standard; bad input is told without a patient's name."""

from collections import Counter

import meds as standard
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from exported import HIGH, VALUE, counted, flags, lines, made, name, run
from fhir.resources.R4B.observation import Observation
from test_estimate_rows import SPANS, staging

from anyecg_ray import absence, export, fhir, schema, storage
from anyecg_ray.cli import main
from anyecg_ray.estimate_rows import publishable
from anyecg_ray.model import load, save
from anyecg_ray.weights import untrained


@pytest.fixture
def folder(tmp_path):
    """One back-fill of one shard."""
    return made(tmp_path)


def test_numbers_that_are_none_never_reach_a_file(folder):
    card = load(str(folder / "b1")).card
    row = publishable(staging(SPANS), card).to_pylist()[0] | {"probability": float("inf")}
    (found,) = fhir.observations([row], card)
    assert "valueQuantity" not in found
    assert found["dataAbsentReason"]["text"] == "number not finite"
    table = pa.Table.from_pylist([row], schema=schema.ECG_LAB_ESTIMATE)
    assert len(absence.estimated(table, counts := Counter())) == 0
    assert counts == {"rows left out: number not finite": 1}


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


def test_back_fills_of_one_model_lie_beside_each_other(tmp_path):
    """The second used to take the first one's place, and said nothing."""
    dest = tmp_path / "dest"
    for who in ("17", "18"):
        (tmp_path / who).mkdir()
        made(tmp_path / who, patients=(who,) * 3, spans=SPANS[:1] * 3)
        for to in ("fhir", "omop"):
            run(tmp_path / who, to, "--dest", dest)
    first = {path: path.read_bytes() for path in dest.rglob("*.*")}
    found = [r["subject"]["identifier"]["value"] for f in dest.glob("Observation-*") for r in lines(f)]
    assert Counter(found) == {"17": 6, "18": 6}
    features = pq.read_table(dest / "waveform_feature").to_pandas()
    assert Counter(features.person_source_value) == {"17": 6, "18": 6}
    for to in ("fhir", "omop"):
        run(tmp_path / "17", to, "--dest", dest)
    assert {path: path.read_bytes() for path in dest.rglob("*.*")} == first


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


@pytest.mark.parametrize("verb", ["export", "publish"])
def test_a_bundle_that_did_not_score_it_is_refused(folder, verb, capsys):
    """Its thresholds and calibration would go under the name of the weights that did."""
    other = untrained("tiny", ["potassium_high", "potassium_value"], ["II"], "ecgfounder-finetune", 1)
    card = other.card.model_copy(update={"indicators": [HIGH, VALUE], "model_version": "1"})
    save(type(other)(card, other.weights), str(folder / "b1"))
    line = flags(folder, "fhir") if verb == "export" else [verb, *flags(folder, "fhir")[1:5]]
    assert main(line) == 2
    assert "not the weights" in capsys.readouterr().err
    assert not (folder / "fhir").exists()
    assert not (folder / "out" / "ecg_lab_estimate").exists()


def test_a_bucket_takes_it(folder, s3, capsys):
    shard = f"Observation-{name(folder)}-000000-000000.ndjson"
    for to in ("fhir", "omop", "meds"):
        for _ in range(2):
            assert main(flags(folder, to, "--dest", f"{s3}/{to}")) == 0
    assert storage.list_folder(f"{s3}/fhir")[1] == [f"Device-{name(folder)}.ndjson", shard]
    here = run(folder, "fhir") / shard
    assert storage.read_bytes(f"{s3}/fhir/{shard}") == here.read_bytes()
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
    assert len(lines(run(folder, "fhir") / f"Observation-{name(folder)}-000000-000000.ndjson")) == 6
    assert sizes == [4, 2]


def test_a_real_back_fill_goes_through_all_three(tmp_path, on_ray, capsys):
    """From made ECGs to each standard, as a user would."""
    a, m, b, out = (str(tmp_path / n) for n in ("archive", "manifest.parquet", "bundle", "out"))
    assert main(["synth", "--out", a, "--encounters", "4", "--minutes", "1"]) == 0
    assert main(["manifest", "--archive", a, "--dataset", "mc-med", "--out", m]) == 0
    assert main(["init", "--preset", "tiny", "--out", b]) == 0
    assert main(["backfill", "--manifest", m, "--bundle", b, "--out", out]) == 0
    capsys.readouterr()
    told, printed = {}, []
    for to in ("fhir", "omop", "meds"):
        assert main(["export", "--out", out, "--bundle", b, "--to", to, "--dest", str(tmp_path / to)]) == 0
        said = capsys.readouterr()
        told[to] = counted(said.out)
        printed.append(said.out + said.err)
    table = pd.read_parquet(f"{out}/ecg_lab_estimate")
    assert not [who for who in {*table.patient_id, *table.encounter_id} if who in "".join(printed)]
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

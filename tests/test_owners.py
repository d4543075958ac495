"""Visits that are numbered anew for each patient: results, age, sex and split stay with whom they belong to."""

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from anyecg_ray.cohort import IndexTimes, Window
from anyecg_ray.config import InputError
from anyecg_ray.manifest import Manifest, manifest, open_manifest
from anyecg_ray.owners import Owners, Who, whose
from anyecg_ray.predict import Shard
from anyecg_ray.prepare_inputs import Inputs, Prepare

LABS = """patient,encounter,time,name,value,unit
A,1,2024-01-01T10:00:00Z,potassium,4.0,mmol/L
B,1,2024-01-01T10:01:00Z,potassium,4.2,mmol/L
C,1,2024-01-01T10:02:00Z,potassium,7.1,mmol/L
"""
PEOPLE = """patient,encounter,age,sex,split
A,1,30,F,train
B,1,50,F,val
C,1,80,M,test
"""
PATIENT = r"^(\w)/"
ABC: list[Who] = [("1", "A"), ("1", "B"), ("1", "C")]


def record(folder: Path, patient: str, visit: str) -> None:
    place = folder / "records" / patient / visit
    place.mkdir(parents=True)
    (place / "ecg.hea").write_text("ecg 1 500 5000 10:00:00 01/01/2024\necg.dat 16 200/mV 16 0 0 0 0 II\n")
    (place / "ecg.dat").write_bytes(np.zeros(5000, "<i2").tobytes())


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Records of visit 1 of three patients, and two tables."""
    for patient in "ABC":
        record(tmp_path, patient, "1")
    (tmp_path / "labs.csv").write_text(LABS)
    (tmp_path / "people.csv").write_text(PEOPLE)
    return tmp_path


def indexed(folder: Path, patient: str | None) -> str:
    out = str(folder / "manifest.parquet")
    found = {"patient": patient, "encounter": r"/(\d)/"}
    archive = str(folder / "records")
    manifest(Manifest.model_validate({"archive": archive, "dataset": "wfdb", "out": out, "wfdb": found, "workers": 0}))
    return out


def inputs(folder: Path, patient: str | None = PATIENT) -> Inputs:
    out = indexed(folder, patient)
    tables = {"labels": str(folder / "labs.csv"), "people": str(folder / "people.csv")}
    told = {"manifest": out, "out": str(folder / "out"), "indicators": ["potassium_value"], **tables}
    return Inputs(Prepare.model_validate(told), open_manifest(out))


def test_results_age_sex_and_split_are_the_patient_s_own(archive: Path) -> None:
    plan = inputs(archive)
    assert [plan.draws.value[plan.draws.of(*who)].tolist() for who in ABC] == [
        [pytest.approx(v)] for v in (4.0, 4.2, 7.1)
    ]
    assert [plan.people[who][:2] for who in ABC] == [(30, "F"), (50, "F"), (80, "M")]
    assert [plan.parts[who] for who in ABC] == ["train", "val", "test"]


def test_a_table_that_does_not_say_of_which_patient_is_refused_by_name(archive: Path) -> None:
    (archive / "labs.csv").write_text(LABS.replace("\nA,1", "\n,1"))
    with pytest.raises(InputError, match=r"labs\.csv: an encounter's id .*name the patient in every row"):
        inputs(archive)
    (archive / "labs.csv").write_text(LABS)
    (archive / "people.csv").write_text(PEOPLE.replace("\nA,1", "\n,1"))
    with pytest.raises(InputError, match=r"people\.csv: an encounter's id .*name the patient in every row"):
        inputs(archive)


def test_visits_of_nobody_named_are_of_the_manifest_s_patient_who_is_in_one_split(archive: Path) -> None:
    for visit in "23":
        record(archive, "A", visit)
    (archive / "people.csv").write_text(f"{PEOPLE},2,30,F,train\n,3,30,F,test\n")
    with pytest.raises(InputError, match="1 patients are in more than one split"):
        inputs(archive)


def test_a_manifest_that_does_not_say_of_which_patient_is_refused(archive: Path) -> None:
    with pytest.raises(InputError, match=r"people\.csv: an encounter's id .*so that it names patients"):
        inputs(archive, patient=None)


def test_encounters_of_one_patient_each_need_no_patient_in_the_manifest(archive: Path) -> None:
    for name, text in (("labs.csv", LABS), ("people.csv", PEOPLE)):
        (archive / name).write_text("".join(line for line in text.splitlines(True) if line[0] not in "AB"))
    plan = inputs(archive, patient=None)
    assert plan.people[whose("1", None)][:2] == (80, "M")
    assert plan.draws.value[plan.draws.of("1", None)].tolist() == [pytest.approx(7.1)]


@pytest.mark.parametrize(
    ("patient", "rows", "told"),
    [
        (PATIENT, "1,", "name the patient in every row"),
        (None, "1,A\n1,B", "so that it names patients"),
        (PATIENT, "1,A\n1,B", None),
        (None, "1,A", None),
    ],
)
def test_the_ecgs_of_a_cohort_are_those_of_its_patients(
    archive: Path, patient: str | None, rows: str, told: str | None
) -> None:
    out = indexed(archive, patient)
    (archive / "cohort.csv").write_text(f"encounter_id,patient_id\n{rows}\n")
    members = IndexTimes(str(archive / "cohort.csv"), Window())
    with pytest.raises(InputError, match=rf"cohort\.csv: an encounter's id .*{told}") if told else nullcontext():
        members.choose(open_manifest(out), [Shard(0, 0, 3)])


def test_without_encounters_the_patient_is_found_by_name_alone() -> None:
    owners = Owners([whose(None, "A"), whose("7", "B")], "people.csv")
    asked: list[Who] = [("A", "A"), ("7", "B"), ("7", "A"), ("A", "B"), (None, None)]
    places = owners.places(*(pa.array([who[i] for who in asked], pa.string()) for i in (0, 1))).to_pylist()
    assert [None if p is None else owners.keys[p] for p in places] == ["A\x1fA", "7\x1fB", None, None, None]

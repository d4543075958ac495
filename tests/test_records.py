"""Finding the records of each kind of archive, and whose they are."""

import io
import zipfile
from datetime import UTC, datetime

import pytest

from anyecg_ray import storage
from anyecg_ray.config import InputError
from anyecg_ray.datasets import mc_med, mimic_iv_ecg
from anyecg_ray.datasets.mc_med import McMed
from anyecg_ray.manifest import Manifest, manifest, open_manifest, read_rows

VISITS = """MRN,CSN,Age,Gender,Arrival_time
99000001,98000123,64,F,2255-03-04T05:06:07Z
99000001,98000124,65,F,2256-03-04T05:06:07Z
99000002,98001123,90,M,2291-01-02T03:04:05Z
"""
SUMMARY = "CSN,Type,Segments,Duration\n98000123,II,11,1e3\n98000124,II,2,60\n98001123,Pleth,1,60\n"
HEADER = "{name} 1 500 5000 05:06:07 04/03/2255\n{name}.dat 16 200/mV 16 0 0 0 0 II\n"


def put(archive: str, path: str, text: str = "") -> None:
    storage.write_atomic(storage.join(archive, path), text.encode())


def put_header(archive: str, path: str) -> None:
    put(archive, f"{path}.hea", HEADER.format(name=path.rpartition("/")[2]))


@pytest.fixture(params=["folder", "s3"])
def place(request, tmp_path) -> str:
    return str(tmp_path / "archive") if request.param == "folder" else request.getfixturevalue("s3") + "/archive"


RECORDS = [f"123/98000123/II/98000123_{k}" for k in (1, 2, 10, 11)]
RECORDS += ["123/98001123/II/98001123_1", "777/98000777/II/98000777_1"]
PLETH = "123/98001123/Pleth/98001123_1"


@pytest.fixture(params=["", "data/", "zips"])
def release(request, place) -> tuple[str, str]:
    """An MC-MED archive of three visits, and where its release keeps the waveforms; {} is a digit of the visit."""
    if request.param == "zips":
        root, waves = "", "waveforms_{}xx.zip/waveforms/"
    else:
        root, waves = request.param, f"{request.param}waveforms/"
    put(place, f"{root}visits.csv", VISITS)
    put(place, f"{root}waveform_summary.csv", SUMMARY)
    zipped: dict[str, io.BytesIO] = {}
    for path in [*RECORDS, PLETH]:
        if request.param != "zips":
            put_header(place, waves + path)
            continue
        with zipfile.ZipFile(zipped.setdefault(path[0], io.BytesIO()), "a", zipfile.ZIP_DEFLATED) as file:
            file.writestr(f"waveforms/{path}.hea", HEADER.format(name=path.rpartition("/")[2]))
    for digit, content in zipped.items():
        storage.write_atomic(storage.join(place, f"waveforms_{digit}xx.zip"), content.getvalue())
    return place, waves


def test_mc_med(release):
    archive, waves = release
    notes: list[str] = []
    found = [f for folder in mc_med.records(archive, McMed(), notes) for f in folder]
    assert [f.record_id for f in found] == [waves.format(path[0]) + path for path in RECORDS]
    first, other, unknown = found[0], found[4], found[5]
    assert (first.patient_id, first.encounter_id, first.age, first.sex) == ("99000001", "98000123", 64, "F")
    assert (other.patient_id, other.encounter_id, other.age, other.sex) == ("99000002", "98001123", 90, "M")
    assert (unknown.patient_id, unknown.encounter_id, unknown.age) == (None, "98000777", None)
    assert len(notes) == 2
    assert "1 visits with waveforms are not in visits.csv" in notes[0]
    assert "1 visits of waveform_summary.csv have no files of II" in notes[1]


def test_mc_med_with_other_waveforms(release):
    archive, waves = release
    found = mc_med.records(archive, McMed(leads=("Pleth",)), [])
    assert [f.record_id for folder in found for f in folder] == [waves.format(1) + PLETH]


def test_mc_med_as_a_manifest(release, tmp_path, capsys):
    archive, waves = release
    out = str(tmp_path / "m.parquet")
    manifest(Manifest(archive=archive, dataset="mc-med", out=out))
    rows = read_rows(out, 0).to_pylist()
    assert [row["status"] for row in rows] == ["ok"] * 6
    assert rows[0]["start_time"] == datetime(2255, 3, 4, 5, 6, 7, tzinfo=UTC)
    assert rows[0]["files"] == [f"{waves.format(1)}{RECORDS[0]}.dat"]
    assert open_manifest(out).made_with["leads"] == ["II"]
    assert "note: 1 visits of waveform_summary.csv have no files" in capsys.readouterr().out


def test_a_damaged_zip_of_waveforms_is_named(place):
    put(place, "visits.csv", VISITS)
    put(place, "waveforms_0xx.zip", "PK")
    with pytest.raises(storage.StorageError, match=r"waveforms_0xx.zip: not a zip that can be read"):
        list(mc_med.records(place, McMed(), []))


def test_mc_med_without_waveforms(place):
    put(place, "visits.csv", VISITS)
    with pytest.raises(InputError, match="no waveforms/ and no waveforms_"):
        list(mc_med.records(place, McMed(), []))


def test_mimic_iv_ecg_is_listed_and_not_searched(place, tmp_path):
    path = "files/p1000/p10000032/s40689238/40689238"
    put_header(place, path)
    listed = f"10000032,40689238,40689238,2180-07-23 08:44:00,{path}\n10000033,1,1,2180-01-01 00:00:00,\n"
    put(place, "record_list.csv", "subject_id,study_id,file_name,ecg_time,path\n" + listed)
    put_header(place, "files/not/listed")
    (found,) = [f for folder in mimic_iv_ecg.records(place) for f in folder]
    assert (found.record_id, found.patient_id, found.encounter_id) == (path, "10000032", "40689238")
    out = str(tmp_path / "m.parquet")
    manifest(Manifest(archive=place, dataset="mimic-iv-ecg", out=out))
    (row,) = read_rows(out, 0).to_pylist()
    assert row["start_time"] == datetime(2180, 7, 23, 8, 44, tzinfo=UTC)  # the list's, not the header's

"""Finding the records of each kind of archive, and whose they are."""

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


@pytest.fixture(params=["", "data/"])
def release(request, place) -> tuple[str, str]:
    """An MC-MED archive of three visits and the folder that its release keeps everything in."""
    root = request.param
    put(place, f"{root}visits.csv", VISITS)
    put(place, f"{root}waveform_summary.csv", SUMMARY)
    for segment in (1, 2, 10, 11):
        put_header(place, f"{root}waveforms/123/98000123/II/98000123_{segment}")
    put_header(place, f"{root}waveforms/123/98001123/Pleth/98001123_1")
    put_header(place, f"{root}waveforms/123/98001123/II/98001123_1")
    put_header(place, f"{root}waveforms/777/98000777/II/98000777_1")
    return place, root


def test_mc_med(release):
    archive, root = release
    notes: list[str] = []
    found = [f for folder in mc_med.records(archive, McMed(), notes) for f in folder]
    ids = [f.record_id.removeprefix(f"{root}waveforms/") for f in found]
    assert ids[:4] == [f"123/98000123/II/98000123_{k}" for k in (1, 2, 10, 11)]
    assert ids[4:] == ["123/98001123/II/98001123_1", "777/98000777/II/98000777_1"]
    first, other, unknown = found[0], found[4], found[5]
    assert (first.patient_id, first.encounter_id, first.age, first.sex) == ("99000001", "98000123", 64, "F")
    assert (other.patient_id, other.encounter_id, other.age, other.sex) == ("99000002", "98001123", 90, "M")
    assert (unknown.patient_id, unknown.encounter_id, unknown.age) == (None, "98000777", None)
    assert len(notes) == 2
    assert "1 visits with waveforms are not in visits.csv" in notes[0]
    assert "1 visits of waveform_summary.csv have no files of II, e.g. CSN 98000124" in notes[1]


def test_mc_med_with_other_waveforms(release):
    archive, root = release
    found = mc_med.records(archive, McMed(leads=("Pleth",)), [])
    assert [f.record_id for folder in found for f in folder] == [f"{root}waveforms/123/98001123/Pleth/98001123_1"]


def test_mc_med_as_a_manifest(release, tmp_path, capsys):
    archive, root = release
    out = str(tmp_path / "m.parquet")
    manifest(Manifest(archive=archive, dataset="mc-med", out=out))
    rows = read_rows(out, 0).to_pylist()
    assert [row["status"] for row in rows] == ["ok"] * 6
    assert rows[0]["start_time"] == datetime(2255, 3, 4, 5, 6, 7, tzinfo=UTC)
    assert rows[0]["files"] == [f"{root}waveforms/123/98000123/II/98000123_1.dat"]
    assert open_manifest(out).made_with["leads"] == ["II"]
    assert "note: 1 visits of waveform_summary.csv have no files" in capsys.readouterr().out


def test_zipped_waveforms_are_to_be_unpacked(place):
    put(place, "visits.csv", VISITS)
    put(place, "waveforms_0xx.zip", "PK")
    with pytest.raises(InputError, match=r"zipped \(waveforms_0xx.zip\); unpack"):
        list(mc_med.records(place, McMed(), []))


def test_mc_med_without_waveforms(place):
    put(place, "visits.csv", VISITS)
    with pytest.raises(InputError, match="no waveforms/ here"):
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

"""The synthetic archive is MC-MED's tree, the same by seed, and its labs shape its ECGs."""

import csv
import hashlib
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import wfdb

from anyecg_ray import synthetic
from anyecg_ray.config import InputError
from anyecg_ray.manifest import Manifest, manifest
from anyecg_ray.synthetic import write_archive


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mc-med")
    return folder, write_archive(str(folder), 40, seed=1, minutes=1.5, workers=2)


def table(folder, name):
    with open(folder / name, newline="") as file:
        return list(csv.DictReader(file))


def digest(folder):
    files = sorted(p for p in Path(folder).rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_the_tree_is_mc_meds(archive):
    folder, told = archive
    top = {p.name for p in folder.iterdir()}
    splits = {f"split_{kind}_{part}.csv" for kind in ("random", "chrono") for part in ("train", "val", "test")}
    assert top == {"visits.csv", "labs.csv", "waveform_summary.csv", "waveforms"} | splits
    records = sorted(folder.rglob("*.hea"))
    assert len(records) >= told.segments > 20
    for header in records:
        csn = header.parent.parent.name
        assert header.parent.name == "II"
        assert header.parent.parent.parent.name == csn[-3:]
        assert header.stem.startswith(f"{csn}_")


def test_records_are_what_wfdb_reads(archive):
    folder, _ = archive
    header = next(h for h in sorted(folder.rglob("*.hea")) if h.with_suffix(".dat").exists())
    record = wfdb.rdrecord(str(header.with_suffix("")))
    assert (record.fs, record.sig_name, record.units, record.fmt) == (500, ["II"], ["mV"], ["16"])
    assert record.base_datetime.year > 2200
    assert np.nanstd(record.p_signal) > 0.02


def test_the_same_seed_gives_the_same_bytes_whatever_the_workers(tmp_path):
    for name, workers in (("a", 1), ("b", 2)):
        write_archive(str(tmp_path / name), 12, seed=3, minutes=1, workers=workers)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    write_archive(str(tmp_path / "c"), 12, seed=4, minutes=1, workers=1)
    assert digest(tmp_path / "a") != digest(tmp_path / "c")


def test_no_patient_is_in_two_splits(archive):
    folder, _ = archive
    patient = {row["CSN"]: row["MRN"] for row in table(folder, "visits.csv")}
    for kind in ("random", "chrono"):
        members = [
            {patient[csn] for csn in (folder / f"split_{kind}_{part}.csv").read_text().split()}
            for part in ("train", "val", "test")
        ]
        assert all(members)
        assert not members[0] & members[1] | members[0] & members[2] | members[1] & members[2]


def test_the_manifest_finds_every_segment(archive, tmp_path):
    folder, told = archive
    manifest(Manifest(archive=str(folder), dataset="mc-med", out=str(tmp_path / "m.parquet"), workers=0))
    rows = pq.read_table(tmp_path / "m.parquet").to_pylist()
    assert len({r["record_id"] for r in rows}) >= told.segments
    patients = {row["MRN"] for row in table(folder, "visits.csv")}
    assert {r["patient_id"] for r in rows} <= patients
    assert all(r["start_time"].year > 2200 for r in rows if r["start_time"])


def test_labs_have_negative_controls_and_abnormal_potassium(tmp_path):
    planned = list(synthetic.visits(0, 400, 10))
    rows = [dict(zip(synthetic.LABS, r, strict=True)) for r in _labs(planned)]
    names = Counter(r["Component_name"] for r in rows)
    assert any("CONTROL" in n.upper() for n in names)
    potassium = [r for r in rows if r["Component_name"].upper().startswith("POTASSIUM")]
    high = sum(r["Component_abnormal"].endswith("High") for r in potassium)
    assert 0.1 < high / len(potassium) < 0.5


def _labs(planned):
    text = dict(synthetic._tables(planned, 0))["labs.csv"]
    return list(csv.reader(text.splitlines()))[1:]


def test_artefacts_gaps_and_lead_off_are_there(archive):
    folder, _ = archive
    lost = flat = 0
    for dat in folder.rglob("*.dat"):
        x = np.frombuffer(dat.read_bytes(), "<i2")
        lost += (x == synthetic.LOST).any()
        flat += any(len(set(part)) == 1 for part in np.array_split(x, max(1, len(x) // 500)))
    assert lost > 0
    assert flat > 0


def test_the_same_archive_again_is_harmless_and_another_is_refused(archive, tmp_path, capsys):
    folder, told = archive
    shutil.copytree(folder, tmp_path / "again")
    before = digest(tmp_path / "again")
    assert write_archive(str(tmp_path / "again"), 40, seed=1, minutes=1.5, workers=2).results == told.results
    assert digest(tmp_path / "again") == before
    with pytest.raises(InputError, match="another archive is there already"):
        write_archive(str(tmp_path / "again"), 41, seed=1, minutes=1.5)


def test_a_bucket(s3, tmp_path):
    write_archive(s3 + "/a", 3, seed=0, minutes=1, workers=1)
    write_archive(str(tmp_path), 3, seed=0, minutes=1, workers=1)
    from anyecg_ray import storage

    for name, expected in digest(tmp_path).items():
        assert hashlib.sha256(storage.read_bytes(f"{s3}/a/{name}")).hexdigest() == expected

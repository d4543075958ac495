"""The manifest: every record of an archive once, in spans, whatever state it is in."""

import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from faulty_s3 import FaultyS3
from planted import PLANTED

from anyecg_ray import manifest as module
from anyecg_ray import storage
from anyecg_ray.cli import main
from anyecg_ray.config import InputError, JobError
from anyecg_ray.manifest import Manifest, manifest, open_manifest, read_rows
from anyecg_ray.manifest_file import GROUP, write_manifest
from anyecg_ray.record import reads
from anyecg_ray.schema import MANIFEST
from anyecg_ray.spans import age_and_sex, spans

ONE_LEAD = "{name} 1 500 {n} 08:30:00.5 22/09/2182\n{name}.dat 16 200/mV 16 0 0 0 0 II\n"


def put(archive: str, path: str, content: bytes | str = b"") -> None:
    storage.write_atomic(storage.join(archive, path), content.encode() if isinstance(content, str) else content)


def put_record(archive: str, path: str, n: int = 5000, comments: str = "") -> None:
    name = path.rpartition("/")[2]
    put(archive, f"{path}.hea", ONE_LEAD.format(name=name, n=n) + comments)
    put(archive, f"{path}.dat", b"\0\0" * min(n, 20))


def made(archive: str, out: str | Path, **settings) -> list[dict]:
    """Rows of the manifest of an archive, after a look at what must hold for every manifest."""
    manifest(Manifest(archive=str(archive), out=str(out), **settings))
    return rows_of(out)


def rows_of(uri: str | Path) -> list[dict]:
    file = open_manifest(str(uri))
    table = pa.concat_tables([read_rows(str(uri), group) for group in range(len(file.row_groups))])
    assert table.schema.equals(MANIFEST)
    assert len(table) == file.rows
    rows = table.to_pylist()
    assert len({row["span_id"] for row in rows}) == len(rows)
    assert all(row["span_id"] == f"{row['record_id']}#{row['start_sample']}" for row in rows)
    return rows


def by_record(rows: list[dict]) -> dict[str, dict]:
    return {row["record_id"]: row for row in rows}


@pytest.fixture(params=["folder", "s3"])
def archive(request, tmp_path) -> str:
    if request.param == "folder":
        return str(tmp_path / "archive")
    return request.getfixturevalue("s3") + "/archive"


@pytest.fixture
def folder(tmp_path) -> str:
    return str(tmp_path / "archive")


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "m.parquet"


# --- what a row says


def test_one_row_per_whole_ecg(archive, out):
    put_record(archive, "a/100")
    put_record(archive, "b/200", 2500)
    rows = made(archive, out)
    assert [row["span_id"] for row in rows] == ["a/100#0", "b/200#0"]
    first = rows[0]
    assert (first["fs"], first["n_samples"], first["leads"], first["files"]) == (500, 5000, ["II"], ["a/100.dat"])
    assert first["start_time"] == datetime(2182, 9, 22, 8, 30, 0, 500_000, UTC)
    assert (first["status"], first["status_detail"], first["patient_id"]) == ("ok", None, None)
    assert first["header"] == ONE_LEAD.format(name="100", n=5000)
    about = open_manifest(str(out))
    assert (about.archive, about.dataset, about.row_groups) == (archive, "wfdb", (2,))


def test_the_same_archive_gives_the_same_file(archive, out, tmp_path):
    for name in ("c", "a/b", "a"):
        put_record(archive, name)
    made(archive, out)
    made(archive, tmp_path / "again.parquet")
    assert out.read_bytes() == (tmp_path / "again.parquet").read_bytes()


def test_a_folder_and_a_bucket_give_the_same_rows(s3, folder, out):
    for place in (s3, folder):
        for name in ("c", "a/b", "a", "a/b0", "~z"):
            put_record(place, name)
    assert made(s3, out) == made(folder, out)


def test_a_manifest_can_lie_on_s3(s3):
    put_record(s3, "a/100")
    rows = made(s3, f"{s3}/manifests/m.parquet")
    assert [row["record_id"] for row in rows] == ["a/100"]
    assert made(s3, f"{s3}/manifests/m.parquet", update=True) == rows


@pytest.mark.parametrize(
    ("length", "fs", "max_span", "expected"),
    [
        (5000, 500, 600, [(0, 5000)]),
        (300_000, 500, 600, [(0, 300_000)]),
        (300_001, 500, 600, [(0, 300_000)]),  # a tail of one sample
        (305_000, 500, 600, [(0, 300_000), (300_000, 5000)]),
        (304_999, 500, 600, [(0, 300_000)]),
        (30_000, 500, 25, [(0, 12_500), (12_500, 12_500), (25_000, 5000)]),
        (100, 500, 600, [(0, 100)]),
        (650_000, 360, 600, [(0, 216_000), (216_000, 216_000), (432_000, 216_000)]),
        (1000, 62.5, 10, [(0, 625)]),
        (None, 500, 600, [(0, None)]),
        (0, 500, 600, [(0, 0)]),
    ],
)
def test_spans(length, fs, max_span, expected):
    assert spans(length, fs, max_span) == expected


def test_spans_of_a_long_record_have_their_own_time(folder, out):
    put_record(folder, "long", 30_000)
    rows = made(folder, out, max_span=25)
    assert [row["start_sample"] for row in rows] == [0, 12_500, 25_000]
    assert rows[2]["start_time"] == datetime(2182, 9, 22, 8, 30, 50, 500_000, UTC)
    assert [row["n_samples"] for row in rows] == [12_500, 12_500, 5000]


def test_cinc_comments_tell_age_and_sex(folder, out):
    put_record(folder, "a", comments="#Age: 56\n#Sex: Female\n#Dx: 426783006\n")
    put_record(folder, "b", comments="# age: 300\n# sex: M\n")
    put_record(folder, "c", comments="#Age: NaN\n#Sex: Unknown\n")
    rows = made(folder, out)
    assert [(row["age"], row["sex"]) for row in rows] == [(56, "F"), (90, "M"), (None, None)]


@pytest.mark.parametrize("text", ["", "-1", "NaN", "200", "12 34x", "Age", "1e3"])
def test_ages_that_are_none(text):
    assert age_and_sex([f"Age: {text}"])["age"] in (None, 12)


def test_patient_and_encounter_come_from_the_path_where_a_pattern_says_how(folder, out):
    put_record(folder, "p10/p100/s7/7")
    put_record(folder, "other/8")
    rows = made(folder, out, wfdb={"patient": r"/p(\d+)/", "encounter": r"/s(\d+)/"})
    assert {row["record_id"]: (row["patient_id"], row["encounter_id"]) for row in rows} == {
        "p10/p100/s7/7": ("100", "7"),
        "other/8": (None, None),
    }


def test_whose_a_record_is_changes_what_a_back_fill_goes_on_with(folder, out):
    put_record(folder, "p1/a")
    digests = set()
    for pattern in (None, "(p1)/", "p(1)/"):
        made(folder, out, wfdb={"patient": pattern} if pattern else {})
        digests |= set(open_manifest(str(out)).digests)
    assert len(digests) == 3


@pytest.mark.parametrize(("pattern", "told"), [("(", "not a regular expression"), ("abc", "in brackets")])
def test_a_pattern_that_is_none(folder, out, pattern, told):
    put_record(folder, "a")
    with pytest.raises(InputError, match=told):
        made(folder, out, wfdb={"patient": pattern})


# --- real archives


def test_every_real_ptb_xl_record(data, out):
    rows = made(data / "ptbxl-500", out, dataset="ptb-xl")
    assert len(rows) == 500
    first = by_record(rows)["records500/00000/00001_hr"]
    assert (first["patient_id"], first["encounter_id"], first["age"], first["sex"]) == ("15709", "1", 56, "F")
    assert first["start_time"] == datetime(1984, 11, 9, 9, 17, 34, tzinfo=UTC)
    assert first["leads"] == ["I", "II", "III", "AVR", "AVL", "AVF", "V1", "V2", "V3", "V4", "V5", "V6"]
    assert {row["status"] for row in rows} == {"ok"}
    low = made(data / "ptbxl-500", out, dataset="ptb-xl", ptb_xl={"rate": 100})
    assert {row["status"] for row in low} == {"ok", "unreadable"}  # 100 of the 500 are here at 100 Hz
    assert sum(row["status"] == "ok" for row in low) == 100


def test_every_real_cinc_record(data, out):
    rows = made(data / "cinc2021", out)
    assert len(rows) == 133
    assert {row["status"] for row in rows} == {"ok"}
    assert all(row["files"] == [f"{row['record_id']}.mat"] for row in rows)
    assert sum(row["sex"] is None for row in rows) < 5


def test_every_wfdb_header_of_the_conformance_set_is_accounted_for(data, out):
    root = data / "wfdb-python" / "sample-data"
    rows = made(root, out)
    headers = {str(p.relative_to(root).with_suffix("")) for p in root.rglob("*.hea")}
    named = {
        str(master.parent.relative_to(root) / line.split()[0])
        for master in root.rglob("*.hea")
        if "/" in master.read_text().split()[0]
        for line in master.read_text().splitlines()[1:]
        if not line.startswith(("#", "~"))
    }
    assert {row["record_id"] for row in rows} == headers - named
    assert {row["status"] for row in rows} <= {"ok", "missing_signal"}


# --- multi-segment records


def put_segments(archive: str, folder: str, extra: str = "") -> None:
    """A record of variable layout: 8 s, a gap of 4 s, 20 s; then 20 s of a segment whose header is not there."""
    layout = "m_layout 2 500 0\n~ 0 200/mV 16 0 0 0 0 II\n~ 0 200/mV 16 0 0 0 0 V\n"
    put(archive, f"{folder}m.hea", f"m/5 2 500 {26_000}\nm_layout 0\nm_1 4000\n~ 2000\nm_2 10000\nm_3 10000\n")
    put(archive, f"{folder}m_layout.hea", layout)
    for name, n in (("m_1", 4000), ("m_2", 10_000)):
        put_record(archive, f"{folder}{name}", n)


def test_segments_are_part_of_their_master(archive, out):
    put_segments(archive, "x/")
    put_record(archive, "x/m_9")  # no master names it
    put_record(archive, "y/m_1")  # nor this one, in another folder
    rows = made(archive, out, max_span=10)
    assert [row["record_id"] for row in rows] == ["x/m"] * 5 + ["x/m_9", "y/m_1"]
    first, second = rows[:2]
    assert first["leads"] == ["II", "V"]
    assert first["files"] == ["x/m_1.dat"]
    assert [text.split()[0] for text in first["header"].split("\f")] == ["m/5", "m_layout", "m_1"]
    assert second["files"] == ["x/m_2.dat"]
    assert [row["status"] for row in rows[:5]] == ["ok"] * 3 + ["missing_signal"] * 2
    assert "x/m_3" in rows[3]["status_detail"]
    # read again, segments are still none of their own
    assert made(archive, out, max_span=10, update=True) == rows


def test_a_segment_goes_by_its_file_s_name(folder, out):
    put(folder, "ms/m.hea", "m/2 1 500 10000\ns1 5000\ns2 5000\n")
    for name in ("s1", "s2"):
        put(folder, f"ms/{name}.hea", "# as it came\n" + ONE_LEAD.format(name="orig", n=5000))
    (row,) = made(folder, out)
    assert row["status"] == "ok"
    told = {"orig.dat": (0, 10_000)}  # both segments' headers name it
    assert reads(row["header"], 0, 10_000) == told


def test_segments_in_a_folder_too_large_for_one_batch(folder, out, monkeypatch, capsys):
    monkeypatch.setattr("anyecg_ray.datasets.wfdb.FOLDER", 3)
    monkeypatch.setattr(module, "BATCH", 3)
    put_record(folder, "before")
    put_segments(folder, "")
    storage.write_atomic(f"{folder}/z.hea", storage.read_bytes(f"{folder}/m.hea").replace(b"m/5", b"z/5"))
    storage.remove(f"{folder}/m.hea")  # the master comes last
    rows = made(folder, out, max_span=10)
    assert {row["record_id"] for row in rows} == {"before", "z"}
    assert "2 records, 6 spans" in capsys.readouterr().out


def interrupted(*_):
    raise KeyboardInterrupt


def test_a_kill_before_segments_that_came_too_early_are_dropped(folder, out, monkeypatch):
    monkeypatch.setattr("anyecg_ray.datasets.wfdb.FOLDER", 3)
    monkeypatch.setattr(module, "BATCH", 3)
    put_record(folder, "before")
    made(folder, out)
    put_segments(folder, "")
    storage.write_atomic(f"{folder}/z.hea", storage.read_bytes(f"{folder}/m.hea").replace(b"m/5", b"z/5"))
    storage.remove(f"{folder}/m.hea")
    whole = module._drop_late_segments
    monkeypatch.setattr(module, "_drop_late_segments", interrupted)
    with pytest.raises(KeyboardInterrupt):
        made(folder, out, update=True)
    monkeypatch.setattr(module, "_drop_late_segments", whole)
    with pytest.raises(InputError, match="making was cut off; run the same `anyecg manifest` again, with --update"):
        open_manifest(str(out))
    rows = made(folder, out, update=True)
    assert {row["record_id"] for row in rows} == {"before", "z"}
    assert open_manifest(str(out)).row_groups[0] == 1  # what was there before stays as it was


# --- RECORDS


def test_records_file_is_the_list(archive, out):
    for name in ("a/1", "a/2", "b/3"):
        put_record(archive, name)
    put(archive, "RECORDS", "b/3\n./a/1\n\nb/3\na/none\n")
    rows = made(archive, out)
    assert [(row["record_id"], row["status"]) for row in rows] == [
        ("b/3", "ok"),
        ("a/1", "ok"),
        ("a/none", "unreadable"),
    ]
    assert "not there" in rows[2]["status_detail"]
    assert len(made(archive, out, wfdb={"records_file": False})) == 3


def test_records_files_of_records_files(archive, out):
    for name in ("30/x/1", "30/x/2", "31/y/3", "31/y/4"):
        put_record(archive, name)
    put(archive, "RECORDS", "30/x/\n31/y/\n")
    put(archive, "30/x/RECORDS", "2\n")
    assert [row["record_id"] for row in made(archive, out)] == ["30/x/2", "31/y/3", "31/y/4"]


def test_a_records_file_that_leads_out(folder, out):
    put(folder, "RECORDS", f"../{PLANTED}\n")
    with pytest.raises(InputError, match="leads out of the archive") as error:
        made(folder, out)
    assert PLANTED not in str(error.value)


@pytest.mark.parametrize("records", [None, f"{PLANTED}/\n"])
def test_a_folder_that_cannot_be_listed(folder, out, records, monkeypatch):
    put_record(folder, f"{PLANTED}/1")
    if records:
        put(folder, "RECORDS", records)
    scandir = os.scandir

    def refused(path):
        if PLANTED in str(path):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(InputError, match="archive/…: access refused") as error:
        made(folder, out)
    assert PLANTED not in str(error.value)


# --- bad input


def test_an_empty_archive(archive, out, tmp_path, capsys):
    put(archive, "notes.txt", "no header here")
    assert main(["manifest", "--archive", archive, "--out", str(out)]) == 2
    told = capsys.readouterr().err
    assert archive in told
    assert "no header" in told
    assert told.count("\n") == 1
    assert not out.exists()
    assert [p.name for p in tmp_path.iterdir() if p.suffix == ".tmp"] == []


def test_a_wrong_prefix(archive, out, capsys):
    put_record(archive, "a")
    assert main(["manifest", "--archive", f"{archive}/typo", "--out", str(out)]) == 2
    assert "typo" in capsys.readouterr().err


@pytest.mark.parametrize("dataset", ["mc-med", "mimic-iv-ecg", "ptb-xl"])
def test_an_archive_of_another_kind(archive, out, dataset, capsys):
    put_record(archive, "a")
    assert main(["manifest", "--archive", archive, "--dataset", dataset, "--out", str(out)]) == 2
    assert "here; give the folder that holds " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--archiv", "x"], "--archive"),
        (["--max-spam", "5"], "--max-span"),
        (["--max-span", "5"], "max-span"),
        (["--dataset", "mcmed"], "dataset"),
        (["--archive", "", "--out", "x"], "archive"),
    ],
)
def test_a_typo_in_a_setting(arguments, told, capsys):
    given = ["--archive", "a", "--out", "b"] if "--out" not in arguments else []
    assert main(["manifest", *given, *arguments]) == 2
    assert told in capsys.readouterr().err


def test_an_output_that_cannot_be_written(archive, tmp_path, s3, capsys):
    put_record(archive, "a")
    (tmp_path / "file").write_text("x")
    for out in (tmp_path / "file" / "m.parquet", tmp_path, f"{s3}-none/m.parquet"):
        assert main(["manifest", "--archive", archive, "--out", str(out)]) == 2
        assert str(out) in capsys.readouterr().err


BAD_HEADERS = {
    "empty": b"",
    "binary": bytes(range(256)) * 8,
    "words": b"this is not a header\n",
    "no_signals_line": b"no_signals_line 2 500 5000\n",
    "negative": b"negative -1 500 5000\n",
    "nul": b"nul 1 500 5000\n\0\0\0\n",
    "fs": b"fs 1 0 5000\nfs.dat 16 200 16 0 0 0 0 II\n",
    "eternal": b"eternal 1 500 99999999999999999\neternal.dat 16 200 16 0 0 0 0 II\n",
}


def test_unreadable_headers_are_rows(archive, out, capsys):
    for name, content in BAD_HEADERS.items():
        put(archive, f"{PLANTED}/{name}.hea", content)
    put_record(archive, "good")
    rows = by_record(made(archive, out))
    assert rows.pop("good")["status"] == "ok"
    assert {i.removeprefix(f"{PLANTED}/") for i in rows} == set(BAD_HEADERS)
    for row in rows.values():
        assert row["status"] == "unreadable", row
        assert row["status_detail"]
        assert row["n_samples"] is None
    told = capsys.readouterr().out
    assert f"unreadable      {len(BAD_HEADERS):>12}\n" in told
    assert "status_detail" in told
    assert PLANTED not in told


def test_a_comment_in_latin_1_is_no_fault(folder, out):
    put(folder, "a.hea", ONE_LEAD.format(name="a", n=5000).encode() + "#Age: 40\n# Herzgeräusch\f\n".encode("latin-1"))
    (row,) = made(folder, out)
    assert (row["status"], row["age"]) == ("ok", 40)
    assert "Herzgeräusch" in row["header"]
    assert "\f" not in row["header"]


def test_a_folder_named_like_a_header(archive, out):
    put(archive, "foo.hea/inside.txt", "x")
    put_record(archive, "bar")
    assert [row["record_id"] for row in made(archive, out)] == ["bar"]
    put(archive, "RECORDS", "foo\nbar\n")
    rows = by_record(made(archive, out))
    assert (rows["foo"]["status"], rows["bar"]["status"]) == ("unreadable", "ok")


def test_names_that_are_not_utf_8(folder, out):
    put_record(folder, "good")
    try:
        for name in ("\udce8/b", "\udce9/b"):
            (Path(folder) / name).parent.mkdir()
            (Path(folder) / f"{name}.hea").write_text(ONE_LEAD.format(name="b", n=5000))
            (Path(folder) / f"{name}.dat").write_bytes(b"\0" * 10_000)
    except OSError:
        pytest.skip("this file system has only UTF-8 names")
    rows = made(folder, out)
    assert len({row["span_id"] for row in rows}) == 3
    assert [row["status"] for row in rows] == ["ok"] * 3
    assert all(storage.exists(storage.join(folder, row["files"][0])) for row in rows)


def test_a_record_of_no_samples(folder, out):
    put(folder, "a.hea", ONE_LEAD.format(name="a", n=0))
    put(folder, "a.dat", b"")
    put(folder, "gone.hea", ONE_LEAD.format(name="gone", n=0))
    rows = by_record(made(folder, out))
    assert (rows["a"]["status"], rows["a"]["n_samples"]) == ("too_short", 0)
    assert rows["gone"]["status"] == "missing_signal"
    assert "gone.dat" in rows["gone"]["status_detail"]


def test_a_length_that_the_header_does_not_tell(data, folder, out):
    put(folder, "a.hea", "a 2 500\na.dat 212 200 12 0 0 0 0 II\na.dat 212 200 12 0 0 0 0 V\n")
    put(folder, "a.dat", b"\0" * 3 * 5000)
    put(folder, "b.hea", "b 1 500\nb.dat 16x2 200 16 0 0 0 0 II\n")
    put(folder, "b.dat", b"\0" * 4 * 700)
    rows = by_record(made(folder, out))
    assert (rows["a"]["n_samples"], rows["b"]["n_samples"]) == (5000, 700)


def test_lengths_that_cannot_be_had_now(s3, s3_endpoint, out, monkeypatch):
    for name in ("a", "b", "c"):
        put(s3, f"{name}.hea", f"{name} 1 500\n{name}.dat 16 200 16 0 0 0 0 II\n")
        put(s3, f"{name}.dat", b"\0" * 10_000)
    monkeypatch.setattr(storage, "ATTEMPTS", 1)
    with FaultyS3(s3_endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        storage.forget_clients()
        proxy.fail("/a.dat")
        proxy.fail("/b.dat", status=403)
        with pytest.raises(JobError, match=r"2 headers could not be fetched \(1 storage failed .*, 1 access refused"):
            made(s3, out)
    rows = by_record(rows_of(out))
    assert {i: (row["status"], row["n_samples"]) for i, row in rows.items()} == {"c": ("ok", 5000)}


def test_a_header_without_its_signal_file_is_left_to_scoring(folder, out):
    put(folder, "a.hea", ONE_LEAD.format(name="a", n=5000))
    (row,) = made(folder, out)
    assert (row["status"], row["files"]) == ("ok", ["a.dat"])


# --- storage that fails


@pytest.fixture
def proxy(s3, s3_endpoint, monkeypatch):
    for name in ("a/1", "a/2", "b/3"):
        put_record(s3, name)
    monkeypatch.setattr(storage, "ATTEMPTS", 1)
    with FaultyS3(s3_endpoint) as faulty:
        monkeypatch.setenv("AWS_ENDPOINT_URL", faulty.url)
        storage.forget_clients()
        yield faulty


def test_a_503_that_passes(s3, proxy, out):
    proxy.fail("/a/1.hea", times=2)
    proxy.fail("list-type=2", times=1)
    assert [row["status"] for row in made(s3, out)] == ["ok"] * 3


def test_a_503_that_stays_leaves_the_record_to_the_next_update(s3, proxy, out, capsys):
    proxy.fail("/a/1.hea")
    with pytest.raises(JobError, match=r"1 headers could not be fetched \(1 storage failed \(\w+\)\); --update"):
        made(s3, out)
    assert [row["record_id"] for row in rows_of(out)] == ["a/2", "b/3"]
    proxy.faults.clear()
    assert [row["record_id"] for row in made(s3, out, update=True)] == ["a/2", "b/3", "a/1"]


def test_refused_credentials(s3, proxy, out, capsys):
    proxy.fail(status=403)
    assert main(["manifest", "--archive", s3, "--out", str(out)]) == 2
    told = capsys.readouterr().err
    assert "AWS_ACCESS_KEY_ID" in told
    assert told.count("\n") == 1


def test_listing_is_allowed_but_reading_is_not(s3, proxy, out, capsys):
    proxy.fail(".hea", status=403)
    assert main(["manifest", "--archive", s3, "--out", str(out)]) == 2
    told = capsys.readouterr().err
    assert f"{s3}/…: access refused" in told
    assert ".hea" not in told
    assert not out.exists()


def test_one_object_that_is_refused_is_told_and_tried_again(s3, proxy, out):
    proxy.fail("/a/1.hea", status=403, times=1)
    with pytest.raises(JobError, match=r"1 headers could not be fetched \(1 access refused"):
        made(s3, out)
    assert len(rows_of(out)) == 2
    assert [row["status"] for row in made(s3, out, update=True)] == ["ok"] * 3


# --- updating


def test_update_appends_and_leaves_the_rest_as_it_was(archive, out, capsys):
    for name in ("b/1", "b/2"):
        put_record(archive, name)
    before = made(archive, out)
    then = open_manifest(str(out))
    put_record(archive, "a/0", 700_000)
    put(archive, "c/bad.hea", b"x")
    capsys.readouterr()
    rows = made(archive, out, update=True)
    now = open_manifest(str(out))
    assert rows[:2] == before
    assert [row["record_id"] for row in rows[2:]] == ["a/0", "a/0", "a/0", "c/bad"]
    assert now.row_groups == (2, 4)
    assert now.digests[:1] == then.digests
    assert "2 records, 4 spans" in capsys.readouterr().out


def test_an_update_that_finds_nothing_leaves_the_file_alone(folder, out, capsys):
    put_record(folder, "a")
    made(folder, out)
    written = out.stat().st_mtime_ns
    made(folder, out, update=True)
    assert out.stat().st_mtime_ns == written
    assert "0 records, 0 spans" in capsys.readouterr().out.splitlines()[-2]


@pytest.mark.parametrize("change", [{"max_span": 30}, {"wfdb": {"patient": "(a)"}}])
def test_an_update_with_other_settings_is_refused(folder, out, change):
    put_record(folder, "a")
    made(folder, out)
    with pytest.raises(InputError, match=next(iter(change)).replace("wfdb", "patient")):
        made(folder, out, update=True, **change)


def test_an_update_of_another_archive_is_refused(folder, out, tmp_path):
    put_record(folder, "a")
    put_record(str(tmp_path / "other"), "a")
    made(folder, out)
    with pytest.raises(InputError, match="made with archive"):
        made(tmp_path / "other", out, update=True)


def test_without_update_the_manifest_is_made_anew(folder, out):
    put_record(folder, "a")
    made(folder, out)
    put_record(folder, "b")
    storage.remove(f"{folder}/a.hea")
    assert [row["record_id"] for row in made(folder, out)] == ["b"]


# --- many records


def test_row_groups_and_ray(folder, out, monkeypatch):
    """More than a row group, through Ray tasks, is what one process makes of it."""
    put(folder, "RECORDS", "".join(f"f{i % 50}/r{i}\n" for i in range(GROUP + 700)))
    for i in range(0, GROUP + 700, 97):
        put_record(folder, f"f{i % 50}/r{i}")
    alone = made(folder, out, workers=0)
    digests = open_manifest(str(out)).digests
    assert open_manifest(str(out)).row_groups == (GROUP, 700)
    assert made(folder, out) == alone
    assert open_manifest(str(out)).digests == digests
    assert sum(row["status"] == "ok" for row in alone) == len(range(0, GROUP + 700, 97))


def test_read_rows_reads_a_slice(folder, out):
    for i in range(5):
        put_record(folder, f"{i}")
    made(folder, out)
    assert read_rows(str(out), 0, 1, 2)["record_id"].to_pylist() == ["1", "2"]
    assert read_rows(str(out), 0, 3)["record_id"].to_pylist() == ["3", "4"]


def test_a_small_archive_does_not_start_ray(folder, out):
    put_record(folder, "a")
    code = (
        "import sys; from anyecg_ray.cli import main; "
        f"code = main(['manifest', '--archive', {folder!r}, '--out', {str(out)!r}]); "
        "print(code, 'ray' in sys.modules, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 False False"


# --- files that are no manifest


def test_files_that_are_no_manifest(tmp_path, s3):
    (tmp_path / "text").write_text("not parquet, but long enough to be looked at")
    pq.write_table(pa.table({"record_id": ["a"]}), tmp_path / "other.parquet")
    empty = pa.table([pa.array([], f.type) for f in MANIFEST], schema=MANIFEST)
    pq.write_table(empty, tmp_path / "bare.parquet")
    newer = MANIFEST.with_metadata({"anyecg.schema_version": "99"})
    pq.write_table(empty.cast(newer), tmp_path / "newer.parquet")
    for name, told in (
        ("text", "not a manifest"),
        ("other.parquet", "no column span_id"),
        ("bare.parquet", "which archive"),
        ("newer.parquet", "newer anyecg"),
        ("absent.parquet", "not there"),
    ):
        with pytest.raises(InputError, match=told) as caught:
            open_manifest(str(tmp_path / name))
        assert name in str(caught.value)
    storage.write_atomic(f"{s3}/text", b"not parquet, but long enough to be looked at")
    with pytest.raises(InputError, match="not a manifest"):
        open_manifest(f"{s3}/text")


def test_tables_of_any_size_make_row_groups(tmp_path):
    def rows(n: int) -> pa.Table:
        ids = [f"r{i}" for i in range(n)]
        told = {"span_id": ids, "record_id": ids, "dataset": ["x"] * n, "start_sample": [0] * n, "status": ["ok"] * n}
        return pa.table([pa.array(told.get(f.name, [None] * n), f.type) for f in MANIFEST], schema=MANIFEST)

    uri = str(tmp_path / "m.parquet")
    write_manifest(uri, "/archive", "wfdb", (rows(n) for n in (3, GROUP - 4, 2 * GROUP, 7)))
    about = open_manifest(uri)
    assert about.row_groups == (GROUP, GROUP, GROUP, 6)
    assert len(set(about.digests)) == 4
    assert about.rows == 3 * GROUP + 6

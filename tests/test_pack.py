"""An archive and its packs give the same rows, in whatever state either of them is."""

import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from bad_records import beats, copy_good, write, write_broken
from planted import PLANTED

from anyecg_ray import pack_file
from anyecg_ray.backfill import Backfill, backfill
from anyecg_ray.cli import main
from anyecg_ray.config import InputError, JobError
from anyecg_ray.manifest import Manifest, manifest, open_manifest, read_rows
from anyecg_ray.pack import Pack, pack
from anyecg_ray.pack_parts import Part, plan
from anyecg_ray.pack_read import GAP, TOGETHER, merged, read
from anyecg_ray.predict import Source, fetch
from anyecg_ray.prepare import Prepare, prepare
from anyecg_ray.preprocess import recipe
from anyecg_ray.storage import MissingObject, Range
from anyecg_ray.synthetic import write_archive
from anyecg_ray.weights import Init, init

pytestmark = pytest.mark.usefixtures("on_ray")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    uri = str(tmp_path_factory.mktemp("bundle"))
    init(Init(out=uri, preset="tiny"))
    return uri


@pytest.fixture(scope="module")
def archive(data, tmp_path_factory):
    """Short and long records, other formats than 16, several segments and files, FLAC, and one of every broken kind."""
    folder = tmp_path_factory.mktemp("archive")
    copy_good(data, folder, 4)
    (folder / "mitdb").mkdir()
    for file in (data / "mitdb" / "records").glob("10[04]s.*"):
        shutil.copy(file, folder / "mitdb")
    long = shutil.ignore_patterns("p000878")
    shutil.copytree(data / "wfdb-python" / "sample-data", folder / "samples", ignore=long)
    write_broken(folder / "broken")
    return folder


@pytest.fixture(scope="module")
def indexed(archive, tmp_path_factory):
    """A manifest whose row groups end within a record."""
    uri = str(tmp_path_factory.mktemp("m") / "m.parquet")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("anyecg_ray.manifest_file.GROUP", 50)
        manifest(Manifest(archive=str(archive), out=uri, max_span=300, workers=0))
    return uri


@pytest.fixture(scope="module")
def packed(indexed, tmp_path_factory):
    out = tmp_path_factory.mktemp("packed")
    pack(Pack(manifest=indexed, out=str(out), megabytes=1))
    return out


def rows(out):
    """Staging, without what differs from run to run."""
    found = pd.read_parquet(f"{out}/staging").sort_values("span_id").reset_index(drop=True)
    return found.drop(columns=["run_id", "estimated_at"])


def scored(manifest, bundle, out, **more):
    job = Backfill(manifest=str(manifest), bundle=bundle, out=str(out), shard_spans=40, max_error_rate=1, **more)
    backfill(job)
    return rows(out)


def same(a, b):
    """Row for row; a missing file's detail names the place where it was looked for."""
    gone = b.status_detail.str.contains("was not there").fillna(False).astype(bool)
    assert set(b.status[gone]) <= {"missing_signal"}
    pd.testing.assert_frame_equal(*(rows.assign(status_detail=rows.status_detail.where(~gone)) for rows in (a, b)))


@pytest.mark.slow  # from a bucket, in test_backfill_s3.py, it is not
def test_the_packs_give_the_same_rows(indexed, packed, bundle, tmp_path):
    before = scored(indexed, bundle, tmp_path / "a")
    after = scored(packed / "manifest.parquet", bundle, tmp_path / "b")
    assert len(before) == open_manifest(indexed).rows > 200
    assert {"ok", "missing_signal", "truncated", "unreadable", "too_short", "flat"} <= set(before.status)
    same(before, after)


def test_the_manifest_is_the_same_but_for_the_places(indexed, packed):
    before, after = open_manifest(indexed), open_manifest(str(packed / "manifest.parquet"))
    assert (after.archive, after.packed_from) == (str(packed), before.archive)
    assert (after.row_groups, after.digests, after.made_with) == (before.row_groups, before.digests, before.made_with)
    assert len(after.row_groups) > 3
    for group in range(len(before.row_groups)):
        rows = read_rows(after.uri, group)
        assert rows.drop_columns("packed").equals(read_rows(before.uri, group))


def test_every_byte_is_there_and_any_arrow_reader_finds_it(archive, packed):
    """In files of which there are far fewer; an object once for a record, though many spans share it."""
    seen = Counter()
    packs = list((packed / "packs").glob("*.arrow"))
    for file in packs:
        table = pa.ipc.open_file(pa.memory_map(str(file))).read_all()
        for path, content in zip(table["path"].to_pylist(), table["bytes"].to_pylist(), strict=True):
            seen[path] += 1
            assert content == (archive / path).read_bytes(), path
    assert {n for path, n in seen.items() if path.startswith((PLANTED, "mitdb"))} == {1}
    assert len(packs) * 4 < len(seen)


def test_a_back_fill_of_the_archive_goes_on_with_its_packs(indexed, packed, bundle, tmp_path, capsys):
    before = scored(indexed, bundle, tmp_path / "a")
    lost = sorted((tmp_path / "a" / "staging").rglob("part-*"))[::2]
    for part in lost:
        part.unlink()
    again = scored(packed / "manifest.parquet", bundle, tmp_path / "a")
    assert "shards are done, going on" in capsys.readouterr().out
    same(before, again)


def test_what_is_counted(indexed, packed, capsys):
    counts = pack(Pack(manifest=indexed, out=str(packed), megabytes=1))
    told = capsys.readouterr().out
    assert counts["missing_signal"] >= 1
    assert f"missing_signal  {counts['missing_signal']:>10,} files" in told
    assert f"{open_manifest(indexed).rows:,} spans" in told


def test_a_second_run_writes_no_pack(indexed, packed, capsys):
    before = {f: f.stat().st_mtime_ns for f in (packed / "packs").iterdir()}
    pack(Pack(manifest=indexed, out=str(packed), megabytes=1))
    n = len([f for f in before if f.suffix == ".parquet"])
    assert f"{n} of {n} packs are done, going on" in capsys.readouterr().out
    assert {f: f.stat().st_mtime_ns for f in (packed / "packs").iterdir()} == before


def test_a_manifest_that_grew_adds_packs(data, tmp_path, bundle, capsys):
    copy_good(data, tmp_path / "archive", 2)
    index = Manifest(archive=str(tmp_path / "archive"), out=str(tmp_path / "m.parquet"), workers=0)
    job = Pack(manifest=index.out, out=str(tmp_path / "packed"), megabytes=1)
    manifest(index)
    pack(job)
    before = set((tmp_path / "packed" / "packs").iterdir())
    copy_good(data, tmp_path / "archive" / "new", 1)
    manifest(index.model_copy(update={"update": True}))
    assert pack(job) == {"packed": 36}
    assert before < set((tmp_path / "packed" / "packs").iterdir())
    same(
        scored(index.out, bundle, tmp_path / "a"), scored(tmp_path / "packed/manifest.parquet", bundle, tmp_path / "b")
    )


@pytest.mark.slow
def test_killed_and_run_again(data, tmp_path, bundle):
    copy_good(data, tmp_path / "archive", 30)
    manifest(Manifest(archive=str(tmp_path / "archive"), out=str(tmp_path / "m.parquet"), workers=0))
    out = tmp_path / "packed"
    flags = ["pack", "--manifest", str(tmp_path / "m.parquet"), "--out", str(out), "--megabytes", "1"]
    env = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    process = subprocess.Popen([sys.executable, "-m", "anyecg_ray", *flags], start_new_session=True, env=env)
    deadline = time.monotonic() + 60
    while len(list(out.glob("packs/*.parquet"))) < 5 and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.005)
    subprocess.run(["pkill", "-KILL", "-s", str(process.pid)], check=False)
    process.wait(30)
    done = {f: f.stat().st_mtime_ns for f in out.glob("packs/*.parquet")}
    assert not (out / "manifest.parquet").exists()
    (out / "packs" / "0000000000-0000000009-00000000.arrow").write_bytes(b"half of a pack")
    (out / "packs" / ".0000000000-0000000009.arrow.0.tmp").write_bytes(b"half of a pack")
    assert main(flags) == 0
    after = {f: f.stat().st_mtime_ns for f in out.glob("packs/*.parquet")}
    assert 0 < len(done) < len(after)
    assert done.items() <= after.items()
    named = {r["pack"] for rs in read_rows(str(out / "manifest.parquet"), 0)["packed"].to_pylist() for r in rs}
    assert {f"packs/{f.name}" for f in (out / "packs").iterdir() if f.suffix != ".parquet"} == named
    same(
        scored(tmp_path / "m.parquet", bundle, tmp_path / "a"), scored(out / "manifest.parquet", bundle, tmp_path / "b")
    )


def test_an_unreadable_file_waits_for_the_next_run(data, tmp_path, bundle, capsys):
    copy_good(data, tmp_path / "archive", 1)
    manifest(Manifest(archive=str(tmp_path / "archive"), out=str(tmp_path / "m.parquet"), workers=0))
    job = Pack(manifest=str(tmp_path / "m.parquet"), out=str(tmp_path / "packed"))
    file = tmp_path / "archive" / f"{PLANTED}0000" / "00003_hr.dat"
    content = file.read_bytes()
    file.unlink()
    file.symlink_to("/proc/1/mem")  # which not even root reads without more ado
    with pytest.raises(
        JobError, match=r"1 signal files could not be read \(.*the same command tries them again"
    ) as error:
        pack(job)
    assert PLANTED not in str(error.value) + "".join(capsys.readouterr())
    first = scored(tmp_path / "packed" / "manifest.parquet", bundle, tmp_path / "out")
    assert Counter(first.status) == {"ok": 11, "transient": 1}
    file.unlink()
    file.write_bytes(content)
    assert pack(job) == {"packed": 12}
    second = scored(tmp_path / "packed" / "manifest.parquet", bundle, tmp_path / "out")  # the same --out
    assert set(second.status) == {"ok"}
    assert len(list((tmp_path / "packed" / "packs").glob("*.arrow"))) == 2  # a reader may still be at the first
    pack(job)
    assert len(list((tmp_path / "packed" / "packs").glob("*.arrow"))) == 1


@pytest.mark.slow
def test_a_pack_that_is_cut_or_gone_is_rows_with_a_status(indexed, packed, bundle, tmp_path):
    whole = scored(packed / "manifest.parquet", bundle, tmp_path / "a")
    broken = tmp_path / "broken"
    shutil.copytree(packed, broken)
    packs = sorted((broken / "packs").glob("*.arrow"))
    packs[0].unlink()
    for file in packs[1:4]:
        os.truncate(file, file.stat().st_size // 2)
    rows = scored(broken / "manifest.parquet", bundle, tmp_path / "b", archive=str(broken))
    assert len(rows) == len(whole)
    differ = rows[rows.status != whole.status]
    assert {"missing_signal", "truncated"} <= set(differ.status)
    assert set(differ.status) <= {"missing_signal", "truncated", "unreadable", "too_short"}
    assert (rows.status == "ok").sum() > 50


def test_a_long_object_becomes_a_file_of_its_own(tmp_path, bundle, monkeypatch):
    monkeypatch.setattr(pack_file, "FIRST", 1 << 10)
    monkeypatch.setattr(pack_file, "CHUNK", 1 << 14)
    monkeypatch.setattr(pack_file, "BATCH", 1 << 14)
    for name, seconds in (("a", 10), ("long", 300), ("middle", 7), ("z", 11)):
        write(tmp_path / "archive", name, beats(seconds=seconds, leads=1), leads=("II",))
    manifest(Manifest(archive=str(tmp_path / "archive"), out=str(tmp_path / "m.parquet"), max_span=60, workers=0))
    index = pack_file.write_pack(str(tmp_path / "archive"), ["a.dat", "long.dat", "no", "z.dat"], str(tmp_path), "p")
    told = {row["path"]: row for row in index.to_pylist()}
    assert [told[p]["length"] for p in ("a.dat", "long.dat", "no", "z.dat")] == [10_000, 300_000, None, 11_000]
    assert told["no"]["fault"] == "missing_signal"
    for path in ("a.dat", "long.dat", "z.dat"):
        (got,) = read([Range(str(tmp_path / told[path]["pack"]), told[path]["offset"], told[path]["length"])])
        assert got == (tmp_path / "archive" / path).read_bytes()
    assert (told["long.dat"]["offset"], told["long.dat"]["pack"][-4:]) == (0, ".dat")
    monkeypatch.undo()
    pack(Pack(manifest=str(tmp_path / "m.parquet"), out=str(tmp_path / "packed")))
    source = Source("", str(tmp_path / "packed"), recipe("ecgfounder-finetune", ("II",)))
    spans = read_rows(str(tmp_path / "packed" / "manifest.parquet"), 0)
    lengths = [sum(map(len, f.blobs.values())) for f in fetch(spans, source)]
    assert lengths == [10_000, *[60_000] * 5, 7_000, 11_000]  # each span of the long one its own bytes


def test_prepare_reads_windows_from_packs_and_tables_from_the_archive(tmp_path):
    write_archive(str(tmp_path / "archive"), encounters=60, seed=3, minutes=1, workers=1)
    uri = str(tmp_path / "m.parquet")
    manifest(Manifest(archive=str(tmp_path / "archive"), dataset="mc-med", out=uri))
    pack(Pack(manifest=uri, out=str(tmp_path / "packed")))
    keys = ["potassium_high", "calcium_low"]
    plain = prepare(Prepare(manifest=uri, out=str(tmp_path / "a"), indicators=keys))
    uri = str(tmp_path / "packed" / "manifest.parquet")
    for archive in (None, str(tmp_path / "packed")):
        out = str(tmp_path / f"b{archive is None}")
        card = prepare(Prepare(manifest=uri, archive=archive, out=out, indicators=keys))
        assert (card.windows, card.counts) == (plain.windows, plain.counts)
        parts = [sorted(Path(o).rglob("part-*.parquet")) for o in (str(tmp_path / "a"), out)]
        for a, b in zip(*parts, strict=True):
            assert pd.read_parquet(a).equals(pd.read_parquet(b))


def test_the_parts_hold_every_row_and_no_record_twice(indexed):
    file = open_manifest(indexed)
    ids = [i for g in range(len(file.row_groups)) for i in read_rows(indexed, g)["record_id"].to_pylist()]
    for size in (1, 1 << 20, 1 << 40):
        parts = list(plan(file, size))
        assert [a.stop for a in parts[:-1]] == [b.first for b in parts[1:]]
        assert (parts[0].first, parts[-1].stop) == (0, file.rows)
        assert all(ids[part.stop - 1] != ids[part.stop] for part in parts[:-1])
    assert len(parts) <= len(file.row_groups)
    assert Part(3, 17).name == "0000000003-0000000017"


def test_neighbours_are_read_together():
    near = [Range("a", 0, 10), Range("a", 10 + GAP, 5), Range("a", 10, 10), Range("a", 12, 3)]
    assert merged(near) == ([Range("a", 0, 15 + GAP)], [0, 0, 0, 0])
    assert merged([Range("b", 0, 10), Range("a", 0, 10)]) == ([Range("a", 0, 10), Range("b", 0, 10)], [1, 0])
    far = [Range("a", 0, 10), Range("a", 11 + GAP, 5)]
    assert merged(far) == (far, [0, 1])
    large = [Range("a", 0, TOGETHER), Range("a", TOGETHER, 1), Range("a", 5, 5)]
    assert merged(large) == (large[:2], [0, 1, 0])
    assert merged([]) == ([], [])


def test_an_error_stays_in_its_place(tmp_path):
    (tmp_path / "a").write_bytes(b"0123456789")
    gone = MissingObject("x: not there")
    asked = [Range(str(tmp_path / "a"), 6, 9), gone, Range(str(tmp_path / "a"), 2, 3), Range(str(tmp_path / "b"), 0, 1)]
    first, second, third, fourth = read(asked)
    assert (bytes(first), second, bytes(third)) == (b"6789", gone, b"234")
    assert isinstance(fourth, MissingObject)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--manifst", "m"], "did you mean --manifest?"),
        (["--megabytes", "0"], "setting megabytes"),
        (["--archive", "/nowhere"], "/nowhere: no such archive"),
        (["--manifest", "nowhere.parquet"], "nowhere.parquet: not there"),
        (["--out", "/proc/out"], "cannot write to /proc/out"),
        (["--manifest", "PACKED"], "is of packs already"),
        (["--out", "BESIDE", "--manifest", "BESIDE/manifest.parquet"], "would be overwritten"),
        (["--out", "PACKED/..", "--megabytes", "2"], "holds packs whose archive, megabytes differ"),
        (["--archive", "EMPTY"], "has none of the manifest's"),
    ],
)
def test_wrong_settings_are_told_in_one_line(flags, told, indexed, packed, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    job = tmp_path / "_job.json"
    job.write_text('{"archive": "a", "megabytes": 1, "row_groups": []}')
    shutil.copyfile(indexed, tmp_path / "manifest.parquet")
    names = {"BESIDE": str(tmp_path), "BESIDE/manifest.parquet": str(tmp_path / "manifest.parquet")}
    names |= {"PACKED": str(packed / "manifest.parquet"), "PACKED/..": str(tmp_path), "EMPTY": str(tmp_path / "empty")}
    given = dict(zip(flags[::2], [names.get(f, f) for f in flags[1::2]], strict=True))
    arguments = {"--manifest": indexed, "--out": str(tmp_path / "out")} | given
    assert main(["pack", *[word for pair in arguments.items() for word in pair]]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


def test_another_archive_needs_another_out(indexed, packed, archive, tmp_path):
    with pytest.raises(InputError, match="packs whose megabytes differs"):
        pack(Pack(manifest=indexed, out=str(packed)))
    uri = str(tmp_path / "m.parquet")
    manifest(Manifest(archive=str(archive), out=uri, workers=0))
    with pytest.raises(InputError, match="packs whose manifest differs"):
        pack(Pack(manifest=uri, out=str(packed), megabytes=1))

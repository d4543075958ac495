"""Files in a zip: the same bytes as unpacked, wherever the zip lies, and a clear word where that cannot be."""

import io
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from anyecg_ray import storage, zips
from anyecg_ray.storage import MissingObject, Range, StorageError

NOISE = np.random.default_rng(0).integers(-900, 900, 50_000, "<i2").tobytes()
FILES = {"a/x.dat": NOISE, "a/é.dat": b"0123456789", "a/empty.dat": b""}


def zipped(method: int, files: dict[str, bytes] = FILES) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", method) as file:
        file.mkdir("a")
        for name, data in files.items():
            with file.open(name, "w", force_zip64=name.endswith("x.dat")) as member:
                member.write(data)
    return content.getvalue()


@pytest.fixture(params=["folder", "s3"])
def place(request, tmp_path) -> str:
    storage._zip.cache_clear()
    return str(tmp_path) if request.param == "folder" else request.getfixturevalue("s3")


@pytest.fixture(params=[zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def archive(request, place) -> str:
    storage.write_atomic(storage.join(place, "w.zip"), zipped(request.param))
    storage.write_atomic(storage.join(place, "plain.dat"), b"plain")
    return place


def test_members_are_read_by_range_beside_plain_files(archive):
    def at(path: str, *where: int) -> Range:
        return Range(storage.join(archive, path), *where)

    asked = [at("w.zip/a/x.dat"), at("w.zip/a/x.dat", 70_000, 1000), at("plain.dat", 1, 3), at("w.zip/a/é.dat", 8, 9)]
    assert storage.read_ranges(asked) == [NOISE, NOISE[70_000:71_000], b"lai", b"89"]
    none = [at("w.zip/a/empty.dat"), at("w.zip/a/é.dat", 10, 5), at("w.zip/a/é.dat", 50), at("w.zip/a/x.dat", 5, 0)]
    assert storage.read_ranges(none) == [b""] * 4
    missing, other = storage.read_ranges([at("w.zip/a/y.dat"), at("none.zip/a/y.dat")])
    assert isinstance(missing, MissingObject)
    assert isinstance(other, MissingObject)


def test_members_are_listed_and_have_sizes(archive):
    uri = storage.join(archive, "w.zip")
    assert storage.members(uri, ".dat") == ["a/empty.dat", "a/x.dat", "a/é.dat"]
    assert storage.members(uri, "x.dat") == ["a/x.dat"]
    assert storage.size(storage.join(uri, "a/x.dat")) == len(NOISE)


def test_a_stored_member_s_range_reads_no_more_than_it_needs():
    member = zips.directory(io.BytesIO(zipped(zipfile.ZIP_STORED)))["a/x.dat"]
    start, length = member.place(1000, 500)
    assert length < 1500 + 1000
    assert start == member.at


def test_a_folder_that_is_called_like_a_zip_is_a_folder(place):
    storage.write_atomic(storage.join(place, "w.zip", "a.dat"), b"plain")
    assert storage.read_ranges([Range(storage.join(place, "w.zip", "a.dat"))]) == [b"plain"]
    assert storage.size(storage.join(place, "w.zip", "a.dat")) == 5


def test_a_member_of_damaged_bytes_is_told(tmp_path):
    raw = bytearray(zipped(zipfile.ZIP_STORED))
    raw[5000] ^= 1
    (tmp_path / "w.zip").write_bytes(raw)
    storage._zip.cache_clear()
    (found,) = storage.read_ranges([Range(str(tmp_path / "w.zip" / "a/x.dat"))])
    assert isinstance(found, StorageError)
    assert "not those that the zip's directory tells of" in str(found)


@pytest.mark.parametrize("at", [40, 60])
def test_deflated_bytes_that_are_none_are_told(tmp_path, at):
    raw = bytearray(zipped(zipfile.ZIP_DEFLATED, {"a/x.dat": bytes(1000)}))
    raw[at + 20 : at + 30] = b"\xff" * 10
    (tmp_path / "w.zip").write_bytes(raw)
    storage._zip.cache_clear()
    (found,) = storage.read_ranges([Range(str(tmp_path / "w.zip" / "a/x.dat"))])
    assert isinstance(found, StorageError)


def test_a_member_that_inflates_to_more_than_it_says_is_cut_off():
    member = zips.directory(io.BytesIO(zipped(zipfile.ZIP_DEFLATED, {"x": bytes(10_000_000)})))["x"]
    raw = zipped(zipfile.ZIP_DEFLATED, {"x": bytes(10_000_000)})
    with pytest.raises(zips.DamagedZip):
        member._replace(size=100, at=0).taken(raw[member.at :], 0, None)


def test_what_is_compressed_otherwise_or_encrypted_is_told(tmp_path):
    (tmp_path / "w.zip").write_bytes(zipped(zipfile.ZIP_BZIP2))
    storage._zip.cache_clear()
    (found,) = storage.read_ranges([Range(str(tmp_path / "w.zip" / "a/x.dat"))])
    assert isinstance(found, StorageError)
    assert "unpack it" in str(found)
    raw = bytearray(zipped(zipfile.ZIP_STORED, {"x": b"0"}))
    raw[raw.rindex(b"PK\1\2") + 8] |= 1
    assert zips.directory(io.BytesIO(bytes(raw)))["x"].method == -1


def test_a_back_fill_reads_a_zipped_archive_as_it_reads_the_tree(on_ray, tmp_path: Path):
    from anyecg_ray.manifest import Manifest, manifest, read_rows
    from anyecg_ray.predict import Shard, Source, windows_of
    from anyecg_ray.preprocess import recipe
    from anyecg_ray.synthetic import write_archive

    tree, packed = tmp_path / "tree", tmp_path / "packed"
    write_archive(str(tree), encounters=12, seed=3, minutes=1, workers=1)
    shutil.copytree(tree, packed)
    for folder in (packed / "waveforms").iterdir():
        name = packed / f"waveforms_{folder.name[0]}xx.zip"
        with zipfile.ZipFile(name, "a", zipfile.ZIP_DEFLATED) as file:
            for path in sorted(folder.rglob("*")):
                file.write(path, path.relative_to(packed))
    shutil.rmtree(packed / "waveforms")
    found = []
    for archive in (tree, packed):
        out = str(archive) + ".parquet"
        manifest(Manifest(archive=str(archive), dataset="mc-med", out=out))
        rows = read_rows(out, 0)
        source = Source(out, str(archive), recipe("ecgfounder-finetune", ("II",)))
        pieces = [row for piece in windows_of(source, Shard(0, 0, len(rows)), 0) for row in piece.to_pylist()]
        told = sorted((p["record_id"].rpartition("/")[2], p["start_time"], p["status"], p["x"]) for p in pieces)
        found.append((len(rows), told))
    assert found[0] == found[1]
    assert {status for _, _, status, _ in found[0][1]} >= {"ok"}

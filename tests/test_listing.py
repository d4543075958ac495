"""Listing: the same paths in the same order for a folder and for S3, however the tree is shaped."""

import random

import pytest
from faulty_s3 import FaultyS3

from anyecg_ray import listing, storage
from anyecg_ray.listing import by_folder, walk
from anyecg_ray.storage import MissingObject, TransientError

TREES = {
    "flat": [f"r{i}.hea" for i in range(25)],
    "deep": ["a/b/c/d/1.hea", "a/b/c/d/2.hea", "a/b/c.hea", "a/b0.hea", "a.hea", "z/1.dat"],
    "mixed": [f"{i % 7}/{i % 5}/{i}.{'hea' if i % 3 else 'dat'}" for i in range(60)] + ["top.hea", "3/x.hea", "3.hea"],
    "odd names": ["a b/c d.hea", "ä/ö.hea", "plus+/100%.hea", "x.hea/1.hea", "~.hea", "a&b.hea"],
}


@pytest.fixture(params=["folder", "s3"])
def archive(request, tmp_path) -> str:
    """An empty archive of either kind; on S3 below a prefix whose neighbour must stay out of it."""
    if request.param == "folder":
        return str(tmp_path)
    bucket = request.getfixturevalue("s3")
    storage.write_atomic(f"{bucket}/archive2/neighbour.hea", b"")
    return f"{bucket}/archive"


def fill(archive: str, paths: list[str]) -> None:
    for path in paths:
        storage.write_atomic(storage.join(archive, path), b"x")


def in_order(paths: list[str]) -> list[str]:
    return sorted((p for p in paths if p.endswith(".hea")), key=str.encode)


@pytest.mark.parametrize("tree", TREES)
@pytest.mark.parametrize("parts", [1, 3, 64])
def test_every_path_once_in_the_order_of_its_bytes(archive, tree, parts, monkeypatch):
    monkeypatch.setattr(listing, "PARTS", parts)
    fill(archive, TREES[tree])
    assert list(walk(archive, ".hea")) == in_order(TREES[tree])


@pytest.mark.parametrize("archive", ["folder"], indirect=True)
def test_small_pages_and_queues_change_nothing(archive, monkeypatch):
    for name, value in (("PAGE", 3), ("AHEAD", 1), ("LOCAL_THREADS", 2), ("PACKED", 4), ("LEVEL_ENTRIES", 5)):
        monkeypatch.setattr(listing, name, value)
    for paths in TREES.values():
        fill(archive, paths)
    assert list(walk(archive, ".hea")) == in_order([p for paths in TREES.values() for p in paths])


def test_many_pages_of_s3(s3, monkeypatch):
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "7")
    monkeypatch.setattr(listing, "LEVEL_ENTRIES", 20)  # so that the root is listed whole
    paths = [f"{i:03}.hea" for i in range(50)]
    fill(s3, paths)
    assert list(walk(s3, ".hea")) == paths


def test_a_folder_named_like_a_header_is_no_header(archive):
    fill(archive, ["foo.hea/inside.dat", "bar.hea"])
    assert list(walk(archive, ".hea")) == ["bar.hea"]


def test_place_holders_of_s3_consoles_are_no_objects(s3):
    storage.filesystem(s3)[0].pipe_file(f"{s3.removeprefix('s3://')}/foo.hea/", b"")
    assert list(walk(s3, "")) == []


def test_links_are_followed_but_not_upwards(tmp_path):
    fill(str(tmp_path), ["archive/a/1.hea", "elsewhere/2.hea"])
    (tmp_path / "archive" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "archive" / "a" / "up").symlink_to(tmp_path / "archive")
    (tmp_path / "archive" / "a" / "self").symlink_to(tmp_path / "archive" / "a" / "self")
    assert list(walk(str(tmp_path / "archive"), ".hea")) == ["a/1.hea", "linked/2.hea"]


def test_links_to_each_other_are_each_followed_once(tmp_path):
    fill(str(tmp_path), ["day/1.hea", "patient/2.hea"])
    (tmp_path / "day" / "of").symlink_to(tmp_path / "patient")
    (tmp_path / "patient" / "on").symlink_to(tmp_path / "day")
    assert list(walk(str(tmp_path), ".hea")) == ["day/1.hea", "day/of/2.hea", "patient/2.hea", "patient/on/1.hea"]


def test_a_location_that_is_not_there(archive, s3):
    if archive.startswith("s3://"):
        assert list(walk(f"{archive}/nothing", ".hea")) == []  # a prefix of nothing is no error on S3
        archive = f"{s3}-no-such-bucket"
    with pytest.raises(MissingObject):
        list(walk(f"{archive}/nothing", ".hea"))


def test_a_reader_that_stops_leaves_no_thread_waiting(tmp_path, monkeypatch):
    monkeypatch.setattr(listing, "PAGE", 1)
    monkeypatch.setattr(listing, "AHEAD", 1)
    fill(str(tmp_path), [f"{i}/{j}.hea" for i in range(40) for j in range(5)])
    paths = walk(str(tmp_path), ".hea")
    assert next(paths) == "0/0.hea"
    paths.close()  # would hang in the pool's shutdown


def test_faults_of_a_listing(s3, s3_endpoint, monkeypatch):
    fill(s3, ["a/1.hea", "b/2.hea"])
    monkeypatch.setattr(storage, "ATTEMPTS", 1)
    with FaultyS3(s3_endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        storage.forget_clients()
        proxy.fail("list-type=2", times=2)
        assert list(walk(s3, ".hea")) == ["a/1.hea", "b/2.hea"]
        proxy.fail("prefix=b")
        with pytest.raises(TransientError):
            list(walk(s3, ".hea"))


def test_s3_is_not_asked_folder_by_folder(s3, s3_endpoint, monkeypatch):
    fill(s3, [f"p{i}/s{j}/r.hea" for i in range(4) for j in range(30)])
    with FaultyS3(s3_endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        storage.forget_clients()
        monkeypatch.setattr(listing, "PARTS", 4)
        assert len(list(walk(s3, ".hea"))) == 120
    assert len(proxy.requests) == 1 + 4


def test_by_folder_keeps_folders_together_within_the_limit():
    paths = in_order(TREES["mixed"])
    groups = list(by_folder(paths, 100))
    assert sorted(p for g in groups for p in g) == sorted(paths)
    folders = [{p.rpartition("/")[0] for p in g} for g in groups]
    assert all(len(f) == 1 for f in folders)
    assert len({f.pop() for f in folders}) == len(groups)
    assert [len(g) for g in by_folder([f"a/{i}" for i in range(5)], 2)] == [2, 2, 1]


def test_by_folder_takes_any_order():
    paths = TREES["mixed"] * 2
    random.Random(1).shuffle(paths)
    groups = list(by_folder(paths, 3))
    assert sorted(p for g in groups for p in g) == sorted(paths)
    assert all(len({p.rpartition("/")[0] for p in g}) == 1 and 0 < len(g) <= 3 for g in groups)

"""Locations: the same behaviour for a folder and for S3, and what a fault of either turns into."""

import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from faulty_s3 import FaultyS3

from anyecg_ray import locations, storage
from anyecg_ray.schema import Status
from anyecg_ray.storage import MissingObject, Range, RefusedError, StorageError, TransientError
from anyecg_ray.storage_errors import status_of


@pytest.fixture(params=["folder", "s3"])
def place(request, tmp_path) -> str:
    """An empty location of either kind."""
    return str(tmp_path) if request.param == "folder" else request.getfixturevalue("s3")


@pytest.fixture
def proxy(s3, s3_endpoint, monkeypatch):
    """A faulty S3 in front of the bucket `s3`."""
    with FaultyS3(s3_endpoint) as faulty:
        monkeypatch.setenv("AWS_ENDPOINT_URL", faulty.url)
        storage.forget_clients()
        yield faulty


def test_written_objects_are_read_back(place):
    uri = storage.join(place, "a", "b.bin")
    storage.write_atomic(uri, b"0123456789")
    assert storage.read_bytes(uri) == b"0123456789"
    assert storage.size(uri) == 10
    known, unknown = storage.sizes([uri, storage.join(place, "none")])
    assert known == 10
    assert isinstance(unknown, MissingObject)
    assert storage.exists(uri)
    assert storage.exists(storage.join(place, "a"))
    storage.remove(uri)
    storage.remove(uri)
    assert not storage.exists(uri)


def test_ranges_are_what_was_asked_for(place):
    uri, empty = storage.join(place, "x.dat"), storage.join(place, "empty.dat")
    storage.write_atomic(uri, b"0123456789")
    storage.write_atomic(empty, b"")
    asked = [Range(uri), Range(uri, 0, 3), Range(uri, 4, 2), Range(uri, 8, 100), Range(uri, 8), Range(uri, 3, 0)]
    assert storage.read_ranges(asked) == [b"0123456789", b"012", b"45", b"89", b"89", b""]
    assert storage.read_ranges([Range(empty), Range(empty, 0, 5), Range(uri, 10), Range(uri, 50, 5)]) == [b""] * 4
    assert storage.read_ranges([]) == []


def test_many_ranges_come_in_their_order(place):
    uri = storage.join(place, "x.dat")
    storage.write_atomic(uri, bytes(range(100)))
    assert storage.read_ranges([Range(uri, i, 1) for i in range(100)]) == [bytes([i]) for i in range(100)]


def test_a_missing_object_takes_its_own_place_among_the_results(place):
    uri = storage.join(place, "x.dat")
    storage.write_atomic(uri, b"0123")
    first, missing, last = storage.read_ranges([Range(uri), Range(storage.join(place, "none.dat")), Range(uri, 1, 1)])
    assert (first, last) == (b"0123", b"1")
    assert isinstance(missing, MissingObject)
    assert "none.dat" in str(missing)
    for action in (storage.read_bytes, storage.size):
        with pytest.raises(MissingObject, match=r"none\.dat"):
            action(storage.join(place, "none.dat"))


def test_of_several_writers_one_creates_an_object(place):
    uri, together = storage.join(place, "log", "1.json"), threading.Barrier(8)

    def create(number):
        together.wait()
        return storage.create(uri, str(number).encode())

    with ThreadPoolExecutor(8) as pool:
        created = list(pool.map(create, range(8)))
    assert created.count(True) == 1
    assert storage.read_bytes(uri) == str(created.index(True)).encode()
    assert storage.files(storage.join(place, "log")) == ["1.json"]


def test_where_files_cannot_have_two_names_one_creates_an_object_too(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    assert storage.create(str(tmp_path / "a"), b"1")
    assert not storage.create(str(tmp_path / "a"), b"2")
    assert (tmp_path / "a").read_bytes() == b"1"
    assert storage.files(str(tmp_path)) == ["a"]


@pytest.mark.parametrize("size", [3, 20 << 20])
def test_output_appears_only_when_it_is_whole(place, size):
    uri = storage.join(place, "deep", "out.bin")
    with storage.atomic_output(uri) as file:
        file.write(b"x" * size)
        assert not storage.exists(uri)
    assert storage.size(uri) == size


@pytest.mark.parametrize("size", [3, 40 << 20])
def test_output_that_fails_leaves_what_was_there(place, size):
    uri = storage.join(place, "out.bin")
    storage.write_atomic(uri, b"before")
    with pytest.raises(ValueError, match="of ours"), storage.atomic_output(uri) as file:
        _write_and_fail(file, size)
    del file  # s3fs finishes an upload when its file object is collected
    assert storage.read_bytes(uri) == b"before"
    assert storage.list_folder(place) == ([], ["out.bin"])


def _write_and_fail(file, size):
    file.write(b"x" * size)
    raise ValueError("of ours")


def test_list_folder(place):
    for name in ("b/1.hea", "a.hea", "c.dat"):
        storage.write_atomic(storage.join(place, name), b"x")
    assert storage.list_folder(place) == (["b"], ["a.hea", "c.dat"])


def test_open_input_seeks(place):
    uri = storage.join(place, "x.dat")
    storage.write_atomic(uri, b"0123456789")
    for cache in ("readahead", "none"):
        with storage.open_input(uri, cache) as file:
            file.seek(-4, os.SEEK_END)
            assert file.read(2) == b"67"


def test_join_never_leads_out():
    assert storage.join("s3://b/p/", "x", "y.dat") == "s3://b/p/x/y.dat"
    assert storage.join("s3://b", "/etc/passwd") == "s3://b//etc/passwd"
    assert storage.join("/", "tmp") == "/tmp"
    assert storage.join("/", "") == "/"
    assert storage.join("a", "", "b") == "a/b"


def test_unknown_kinds_of_location_are_told():
    with pytest.raises(StorageError, match="give a folder or s3://"):
        storage.read_bytes("nonsense://x/y")


def test_check_writable_leaves_nothing(place):
    storage.check_writable(storage.join(place, "new", "m.parquet"))
    assert not storage.exists(storage.join(place, "new", "m.parquet"))


def test_an_output_below_a_file_or_on_a_folder_is_told(tmp_path):
    (tmp_path / "file").write_text("x")
    for uri in (tmp_path / "file" / "m.parquet", tmp_path):
        with pytest.raises(StorageError, match=str(uri)):
            storage.check_writable(str(uri))
    with (
        pytest.raises(StorageError, match=r"cannot write to .*File exists"),
        storage.atomic_output(str(tmp_path / "file" / "m")),
    ):
        pass


def test_a_link_is_followed_and_a_device_is_left_alone(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "target")
    storage.write_atomic(str(tmp_path / "link"), b"x")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_bytes() == b"x"
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StorageError, match="no regular file"):
        storage.write_atomic(str(tmp_path / "pipe"), b"x")


def test_a_bucket_that_is_not_there(s3):
    uri = f"{s3}-not/x"
    with pytest.raises(MissingObject):
        storage.read_bytes(uri)
    for write in (storage.check_writable, lambda u: storage.write_atomic(u, b"x")):
        with pytest.raises(StorageError, match="the bucket or the folder is not there"):
            write(uri)


def test_a_503_that_passes_is_not_seen(s3, proxy):
    uri = f"{s3}/x.dat"
    storage.write_atomic(uri, b"0123456789")
    proxy.fail("/x.dat", times=2)
    assert storage.read_ranges([Range(uri, 2, 3), Range(uri)]) == [b"234", b"0123456789"]
    proxy.fail("/x.dat", times=2)
    assert storage.read_bytes(uri) == b"0123456789"
    proxy.fail("/y.dat", status=500, times=2)
    storage.write_atomic(f"{s3}/y.dat", b"y")
    assert storage.read_bytes(f"{s3}/y.dat") == b"y"


def test_a_dropped_connection_and_a_slow_answer_pass(s3, proxy):
    uri = f"{s3}/x.dat"
    storage.write_atomic(uri, b"0123456789")
    proxy.fail("/x.dat", status=0, times=1)
    assert storage.read_ranges([Range(uri, 1, 1)]) == [b"1"]
    proxy.slow("/x.dat", seconds=0.3)
    assert storage.read_bytes(uri) == b"0123456789"


def test_an_answer_that_never_comes_is_asked_for_again(s3, proxy, monkeypatch):
    storage.write_atomic(f"{s3}/x.dat", b"0123")
    monkeypatch.setitem(locations.S3_CLIENT, "read_timeout", 0.5)
    storage.forget_clients()
    proxy.slow("/x.dat", seconds=2, times=1)
    assert storage.read_ranges([Range(f"{s3}/x.dat")]) == [b"0123"]


def test_a_503_that_stays_is_transient_and_the_others_are_read(s3, proxy, monkeypatch):
    monkeypatch.setattr(storage, "ATTEMPTS", 1)
    for name in ("x", "y"):
        storage.write_atomic(f"{s3}/{name}.dat", name.encode())
    proxy.fail("/x.dat")
    bad, good = storage.read_ranges([Range(f"{s3}/x.dat"), Range(f"{s3}/y.dat")])
    assert isinstance(bad, TransientError)
    assert good == b"y"


def test_a_whole_object_costs_one_request(s3, proxy):
    storage.write_atomic(f"{s3}/x.dat", b"0123")
    proxy.requests.clear()
    storage.read_ranges([Range(f"{s3}/x.dat")])
    assert len(proxy.requests) == 1


def test_refused_requests_are_told_with_the_mend(s3, proxy):
    proxy.fail(status=403)
    uri = f"{s3}/x.dat"
    for action in (storage.read_bytes, storage.size, storage.exists, storage.check_writable, storage.list_folder):
        with pytest.raises(RefusedError, match="AWS_ACCESS_KEY_ID"):
            action(uri)
    assert isinstance(storage.read_ranges([Range(uri)])[0], RefusedError)
    with pytest.raises(RefusedError, match="cannot write to"):
        storage.write_atomic(uri, b"x")
    assert len(proxy.requests) <= 10  # no use in asking again


def test_credentials_that_s3_does_not_know(s3, monkeypatch):
    monkeypatch.setattr("moto.settings.INITIAL_NO_AUTH_ACTION_COUNT", 0)  # from now on moto checks them as AWS does
    with pytest.raises(RefusedError, match=r"does not exist in our records.*check AWS_ACCESS_KEY_ID"):
        storage.read_bytes(f"{s3}/x.dat")


def test_no_credentials_at_all(s3, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE", "BOTO_CONFIG"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    storage.forget_clients()
    with pytest.raises(RefusedError, match=r"no credentials.*FSSPEC_S3_ANON"):
        storage.read_bytes(f"{s3}/x.dat")
    assert isinstance(storage.read_ranges([Range(f"{s3}/x.dat")])[0], RefusedError)


def test_an_endpoint_where_nobody_listens(s3, monkeypatch):
    monkeypatch.setattr(storage, "ATTEMPTS", 1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    storage.forget_clients()
    with pytest.raises(TransientError, match=r"127\.0\.0\.1:1"):
        storage.read_bytes(f"{s3}/x.dat")


def failing(monkeypatch, number, times):
    """Opening a file fails so many times, as the operating system says it."""
    left = [times]

    def opened(*arguments, **how):
        if left[0]:
            left[0] -= 1
            raise OSError(number, os.strerror(number))
        return open(*arguments, **how)

    monkeypatch.setattr(storage, "open", opened, raising=False)
    monkeypatch.setattr(storage.time, "sleep", lambda _: None)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE])
def test_a_networks_folder_that_is_out_of_reach_for_a_while_is_tried_again(monkeypatch, tmp_path, number):
    (tmp_path / "f").write_bytes(b"signal")
    failing(monkeypatch, number, times=1)
    assert storage.read_ranges([Range(str(tmp_path / "f"), 0, 6)]) == [b"signal"]
    failing(monkeypatch, number, times=99)
    (found,) = storage.read_ranges([Range(str(tmp_path / "f"), 0, 6)])
    assert isinstance(found, TransientError)
    assert status_of(found) is Status.TRANSIENT


def test_what_no_other_try_can_mend_is_final(monkeypatch, tmp_path):
    failing(monkeypatch, errno.ENAMETOOLONG, times=1)
    (found,) = storage.read_ranges([Range(str(tmp_path / "f"), 0, 6)])
    assert isinstance(found, StorageError)
    assert status_of(found) is Status.MISSING_SIGNAL


def test_another_kind_of_location_is_refused():
    for uri in ("http://localhost:1/y", "ftp://host/y", "gs://bucket/y"):
        with pytest.raises(StorageError, match=r"cannot use this kind of location .*give a folder or s3://"):
            storage.check_writable(uri)


def test_a_folder_where_a_file_is_asked_for_and_the_other_way_round(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(MissingObject, match="it is a folder; name a file in it"):
        storage.read_bytes(str(tmp_path))
    with pytest.raises(MissingObject, match="a file stands where a folder should be"):
        storage.list_folder(str(tmp_path / "file"))


def test_check_writable_leaves_others_files_alone(tmp_path):
    (tmp_path / "m.parquet.tmp").write_text("precious")
    storage.check_writable(str(tmp_path / "m.parquet"))
    assert [p.name for p in tmp_path.iterdir()] == ["m.parquet.tmp"]

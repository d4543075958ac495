"""Records that the server reads itself: what is told where their storage does not give them."""

import pytest
from bad_requests import dat, header
from faulty_s3 import FaultyS3

from anyecg_ray import remote, storage
from anyecg_ray.http_problems import Problem
from anyecg_ray.limits import Limits


def refused(uri: str, prefix: str) -> Problem:
    with pytest.raises(Problem) as raised:
        remote.read(uri, [prefix], Limits()).read()
    return raised.value


@pytest.fixture(params=["folder", "s3"])
def place(request, tmp_path) -> str:
    """A place that holds one record, r."""
    at = str(tmp_path) if request.param == "folder" else request.getfixturevalue("s3")
    storage.write_atomic(f"{at}/r.hea", header().encode())
    storage.write_atomic(f"{at}/r.dat", dat())
    return at


def test_a_record_is_read(place):
    assert remote.read(f"{place}/r", [place], Limits()).read().signals.shape == (1, 5000)


def test_a_header_in_latin_1_means_what_it_means_to_the_back_fill(place):
    for segment in ("r", "s"):
        latin = header().replace("mV", "µV").encode("latin-1").replace(b"r 1", segment.encode() + b" 1")
        storage.write_atomic(f"{place}/{segment}.hea", latin)
    storage.write_atomic(f"{place}/m.hea", b"m/2 1 500 10000\ns 5000\nr 5000\n# Herzger\xe4usch\n")
    for name in ("r", "m"):
        ecg = remote.read(f"{place}/{name}", [place], Limits())
        assert ecg.read().units == ("µV",)
        assert "\ufffd" not in ecg.header


@pytest.mark.parametrize("name", ["a" * 300, "b/" * 400 + "r", "\u00e9" * 900])
def test_a_record_that_no_file_can_be_is_not_there(place, name):
    problem = refused(f"{place}/{name}", place)
    assert (problem.status, problem.code, problem.headers) == (404, "no_such_record", {})


def test_a_storage_that_refuses_is_told_and_not_asked_again(s3, s3_endpoint, monkeypatch):
    with FaultyS3(s3_endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        storage.forget_clients()
        proxy.fail("/r.hea", status=403)
        problem = refused(f"{s3}/r", s3)
    assert (problem.status, problem.code, problem.field, problem.headers) == (502, "storage_refused", "record", {})
    assert "s3" not in problem.detail


def test_a_storage_that_does_not_answer_may_be_asked_again(s3, monkeypatch):
    monkeypatch.setattr(storage, "ATTEMPTS", 1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    storage.forget_clients()
    problem = refused(f"{s3}/r", s3)
    assert (problem.status, problem.code, problem.headers) == (503, "overloaded", {"Retry-After": "5"})

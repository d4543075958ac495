"""The endpoint is told to end: what it has taken on is answered, and nothing more is taken on."""

import json
import threading
import time

import pytest
import requests
from bad_requests import GOOD
from endpoint import Upload, bundle, running

from anyecg_ray import hosting
from anyecg_ray.limits import Limits

ONE = "/v1/estimates", json.dumps(GOOD).encode()
BATCH = "/v1/estimates:batch", json.dumps({"ecgs": [GOOD] * 32}).encode()


@pytest.fixture
def server(tmp_path):
    with running(bundle=[bundle(tmp_path)], auth=False, replicas=2) as endpoint:
        yield endpoint


def test_what_was_taken_on_is_answered_and_nothing_more_is_taken_on(server):
    uploads = [Upload(server.url, *given) for given in (ONE, BATCH, ONE, BATCH)]
    time.sleep(1)  # until they are at work
    ending = threading.Thread(target=hosting.end, args=(Limits(),))
    ending.start()
    until = time.monotonic() + 20
    while server.get("/readyz").status_code == 200:
        assert time.monotonic() < until
    time.sleep(1)
    refused = [server.estimate(json=GOOD) for _ in range(8)] + [server.get("/readyz") for _ in range(8)]
    for got in refused:  # by both ingress replicas
        assert (got.status_code, got.json()["code"]) == (503, "ending")
        assert got.headers["Content-Type"] == "application/problem+json"
        assert int(got.headers["Retry-After"]) > 0
    assert server.get("/healthz").status_code == 200
    assert ending.is_alive()
    answers = [upload.finished() for upload in uploads]
    assert [status for status, _ in answers] == [200] * 4
    assert [told["status"] for _, told in answers[::2]] == ["ok"] * 2
    assert [[item["status"] for item in told["items"]] for _, told in answers[1::2]] == [[200] * 32] * 2
    ending.join(30)
    assert not ending.is_alive()
    assert requests.get(server.url + "/v1/models", timeout=30).status_code == 404

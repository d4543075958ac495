"""Under load: a new version takes over without a failed request, and a replica that dies costs no wrong answer."""

import json
import threading
import time
from collections import Counter
from contextlib import contextmanager

import pytest
import ray
import requests
from bad_requests import GOOD
from endpoint import Endpoint, bundle, free_port

from anyecg_ray import cluster, hosting, model
from anyecg_ray.serve import APP

pytestmark = pytest.mark.slow

CLIENTS = 4


class Load:
    """Clients that ask without a pause, and everything that they were answered."""

    def __init__(self, url: str) -> None:
        self.answers: list[tuple[float, int, dict]] = []
        self._url, self._stop = url, threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(CLIENTS)]

    def _ask(self) -> None:
        session = requests.Session()
        body = json.dumps(GOOD).encode()
        while not self._stop.is_set():
            got = session.post(
                self._url + "/v1/estimates", data=body, headers={"Content-Type": "application/json"}, timeout=60
            )
            self.answers.append((time.monotonic(), got.status_code, got.json() if b"{" in got.content else {}))

    def versions(self) -> Counter:
        return Counter(told["model"]["version"] for _, status, told in self.answers if status == 200)

    def statuses(self) -> Counter:
        return Counter(status for _, status, _ in self.answers)

    @contextmanager
    def running(self):
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join()


@pytest.fixture
def deployed(tmp_path):
    """(endpoint, settings) of a model with two replicas, and room for more."""
    with cluster.connected():
        settings = hosting.Serve(
            bundle=[bundle(tmp_path)], auth=False, port=free_port(), models=2, precision="float32", backend="torch",
            threads=1, ingress_cpus=0.1, model_cpus=0.1,
        )  # fmt: skip
        hosting.start(settings)
        yield Endpoint(f"http://127.0.0.1:{settings.port}", None), settings
        hosting.rayserve.shutdown()


def wait(true, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until
        time.sleep(0.1)


def test_a_new_version_takes_over_without_a_failed_request(deployed, tmp_path):
    endpoint, settings = deployed
    old = endpoint.estimate(json=GOOD).json()
    new_uri = bundle(tmp_path, seed=1, name="next")
    load = Load(endpoint.url)
    with load.running():
        wait(lambda: len(load.answers) > 20)
        hosting.start(settings.model_copy(update={"bundle": [new_uri]}))
        version = model.load_card(new_uri).model_version
        wait(lambda: load.versions()[version] > 20)
        wait(lambda: {t["model"]["version"] for _, _, t in load.answers[-20:]} == {version})
    assert load.statuses() == {200: len(load.answers)}
    new = endpoint.estimate(json=GOOD).json()
    assert new["model"]["version"] == version
    expected = {a["model"]["version"]: a for a in (old, new)}
    for _, _, told in load.answers:
        right = expected[told["model"]["version"]]
        assert told["model"] == right["model"]
        for found, wanted in zip(told["estimates"], right["estimates"], strict=True):
            assert found["probability"] == pytest.approx(wanted["probability"], abs=1e-6)
            assert found["value"] == pytest.approx(wanted["value"], abs=1e-5)


def replicas(of: str) -> list:
    actors = ray.util.list_named_actors(all_namespaces=True)
    names = [a["name"] for a in actors if a["namespace"] == "serve" and f"{APP}#{of}" in a["name"]]
    return [ray.get_actor(name, namespace="serve") for name in names]


def test_a_replica_that_dies_costs_no_wrong_answer(deployed):
    endpoint, _ = deployed
    right = endpoint.estimate(json=GOOD).json()["estimates"]
    load = Load(endpoint.url)
    (one, two) = replicas("model-")
    with load.running():
        wait(lambda: len(load.answers) > 20)
        killed = time.monotonic()
        ray.kill(one)
        wait(lambda: len(replicas("model-")) == 2 and one not in replicas("model-"))
        wait(lambda: load.answers[-1][0] > killed + 2)
    assert two is not None
    assert load.statuses() == {200: len(load.answers)}  # the other replica was asked instead
    for _, _, told in load.answers:
        for found, wanted in zip(told["estimates"], right, strict=True):
            assert found["probability"] == pytest.approx(wanted["probability"], abs=1e-6)

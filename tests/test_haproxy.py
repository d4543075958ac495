"""The endpoint behind HAProxy, as docs/serving.md offers it: the same answers, refusals and locks."""

import os
import signal
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from bad_requests import GOOD
from endpoint import bundle, free_port

MODE = {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_HAPROXY_LOG_TARGET": "127.0.0.1:9"}


@pytest.mark.slow
def test_answers_and_refusals_pass_and_strangers_do_not(tmp_path):
    port = free_port()
    line = [sys.executable, "-m", "anyecg_ray", "serve", "--bundle", bundle(tmp_path), "--no-auth", "--port", str(port)]
    ports = {f"RAY_SERVE_HAPROXY_{name}_PORT": str(free_port()) for name in ("STATS", "METRICS")}
    env = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | MODE | ports
    long = {**GOOD, "signals": [row * 30 for row in GOOD["signals"]]}
    url = f"http://127.0.0.1:{port}"

    def ask(given: dict, **headers: str) -> requests.Response:
        return requests.post(f"{url}/v1/estimates", json=given, headers=headers, timeout=60)

    with subprocess.Popen([*line, "--limits.requests", "1"], stdout=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdout.readline().startswith(f"{url} serves ")
        assert ask(GOOD).json()["status"] == "ok"
        assert ask({}).json()["code"] == "missing_field"
        assert ask(GOOD, Host="evil.example").json()["code"] == "not_local"
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(ask, [long] * 24))
        process.send_signal(signal.SIGTERM)
        assert process.wait(90) == 0
    statuses = Counter(answer.status_code for answer in answers)
    assert set(statuses) == {200, 503}
    for answer in answers:
        if answer.status_code == 503:
            assert answer.headers["Content-Type"] == "application/problem+json"
            assert int(answer.headers["Retry-After"]) > 0
            assert answer.json()["code"] == "overloaded"

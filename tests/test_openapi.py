"""openapi.json says what the endpoint does, and no request that can be made from it brings the endpoint down."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import requests
from endpoint import Endpoint, bundle, running

from anyecg_ray import keys
from anyecg_ray.messages import Answer

CASES = 100
"""Generated requests a route and phase."""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    secret, key = keys.made("fuzzer")
    (folder / "keys").write_text(key.line())
    with running(secret, bundle=[bundle(folder)], keys=str(folder / "keys"), record_prefix=[str(folder)]) as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def described(server):
    return server.get("/openapi.json").json()


def fuzzed(server: Endpoint, tmp_path: Path, *options: str) -> str:
    """What schemathesis found; its exit code is 1 where a check failed."""
    line = [str(Path(sys.executable).parent / "schemathesis"), "run", f"{server.url}/openapi.json"]
    line += ["-H", f"Authorization: Bearer {server.key}", "--max-examples", str(CASES), "--seed", "1", "--no-color"]
    done = subprocess.run([*line, *options], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stdout[-6000:]
    return done.stdout


def test_no_generated_request_is_answered_otherwise_than_described(server, tmp_path):
    # an ECG that fits the schema need not be one that can be read: too short, or of a lead that no model knows
    told = fuzzed(
        server, tmp_path, "--exclude-checks", "positive_data_acceptance", "--exclude-path", "/v1/estimates:batch"
    )
    assert int(re.search(r"(\d+) generated", told)[1]) > 300
    assert requests.get(server.url + "/readyz", timeout=30).status_code == 200


@pytest.mark.slow
def test_nor_is_a_generated_batch(server, tmp_path):
    # a batch is accepted whose ECGs are not: each has its own status
    without = "positive_data_acceptance,negative_data_rejection"
    told = fuzzed(server, tmp_path, "--exclude-checks", without, "--include-path", "/v1/estimates:batch")
    assert int(re.search(r"(\d+) generated", told)[1]) > 100
    assert requests.get(server.url + "/readyz", timeout=30).status_code == 200


def test_every_route_of_the_api_is_described(described):
    assert set(described["paths"]) == {
        "/v1/estimates", "/v1/estimates:batch", "/v1/models", "/v1/models/{name}", "/v1/example", "/v1/example.hea",
        "/v1/example.dat", "/healthz", "/readyz", "/metrics",
    }  # fmt: skip


def test_both_forms_of_a_body_are_described(described):
    content = described["paths"]["/v1/estimates"]["post"]["requestBody"]["content"]
    assert set(content) == {"application/json", "multipart/form-data"}
    schemas = described["components"]["schemas"]
    assert {"Signals", "Stored", "Batch", "Problem", "Answer"} <= set(schemas)
    assert set(schemas["Signals"]["required"]) == {"signals", "leads", "fs"}
    assert set(schemas["Answer"]["properties"]) == set(Answer.model_fields)


def test_every_field_of_an_answer_that_is_not_plain_says_what_it_is(described):
    fields = described["components"]["schemas"]["Estimate"]["properties"]
    for name in ("calibrated", "abnormal", "tier", "window_start", "unit"):
        assert fields[name].get("description"), name


def test_the_reference_loads_nothing_from_elsewhere(server):
    page = server.get("/docs").text
    sources = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert "/static/swagger/swagger-ui-bundle.js" in sources
    for source in sources:
        assert source.startswith(("/static/", "data:", "/openapi.json")), source
        if source.startswith("/"):
            assert requests.get(server.url + source, timeout=30).status_code == 200, source

"""The endpoint as it is deployed: Ray Serve, HTTP, keys; and that its numbers are the back-fill's."""

import importlib
import inspect
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import ray
import requests
import yaml
from bad_records import beats, copy_good, write
from bad_requests import GOOD, Bad, all_of_them, dat, header, upload
from endpoint import INDICATORS, Endpoint, Upload, bundle, free_port, running
from ray.serve.schema import ServeDeploySchema

from anyecg_ray import cluster, hosting, keys, model, schema
from anyecg_ray.backends import Compute, Estimator
from anyecg_ray.backfill import Backfill, backfill
from anyecg_ray.leads import TWELVE_LEADS
from anyecg_ray.limits import Limits
from anyecg_ray.manifest import Manifest, manifest
from anyecg_ray.preprocess import preprocess
from anyecg_ray.record import decode
from anyecg_ray.request_ecg import Ecg
from anyecg_ray.schema import Status

PLANTED = "Doe-Jane-1234567"


@pytest.fixture(scope="module")
def archive(data, tmp_path_factory):
    """Real ECGs, one made-up record of three windows, of which one is flat, and what must not be read."""
    folder = tmp_path_factory.mktemp("archive")
    copy_good(data, folder, 2)
    signal = beats(seconds=30)
    signal[:, 10_000:] = 0
    write(folder / "made", "three", signal)
    outside = tmp_path_factory.mktemp("outside")
    write(outside, "secret", beats())
    for end in (".hea", ".dat"):
        (folder / f"link{end}").symlink_to(outside / f"secret{end}")
    (folder / "folder").mkdir()
    return folder


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles")
    one, twelve = bundle(folder), bundle(folder, list(TWELVE_LEADS), name="twelve")
    card = Path(twelve, "card.json")
    card.write_text(card.read_text().replace('"untrained-tiny"', '"twelve"'))
    return one, twelve


@pytest.fixture(scope="module")
def secrets(tmp_path_factory):
    """(file of keys, an active secret, a revoked one)."""
    file = str(tmp_path_factory.mktemp("keys") / "keys")
    (one, kept), (other, gone) = keys.made("clinic"), keys.made("former")
    Path(file).write_text(f"{kept.line()}\n{gone.line()}:revoked\n")
    return file, one, other


@pytest.fixture(scope="module")
def server(archive, bundles, secrets):
    file, key, _ = secrets
    settings = {"bundle": list(bundles), "keys": file, "record_prefix": [str(archive)], "precision": "float32"}
    with running(key, **settings, limits=Limits(megabytes=8)) as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def filled(archive, bundles, tmp_path_factory):
    """What a back-fill makes of the archive, by span and by window; made before the server takes the CPUs."""
    folder = tmp_path_factory.mktemp("filled")
    manifest(Manifest(archive=str(archive), out=str(folder / "m.parquet"), workers=0))
    job = {"manifest": str(folder / "m.parquet"), "bundle": bundles[0], "precision": "float32"}
    with cluster.connected():
        for granularity in ("span", "window"):
            backfill(Backfill(**job, out=str(folder / granularity), granularity=granularity))
    return [pd.read_parquet(folder / granularity / "ecg_lab_estimate") for granularity in ("span", "window")]


def files_of(record: Path) -> list:
    return [("file", (f.name, f.read_bytes())) for f in sorted(record.parent.glob(record.name + ".*"))]


def as_signals(record: Path) -> dict:
    read = decode(record.with_suffix(".hea").read_text(), {f.name: f.read_bytes() for f in record.parent.iterdir()
                                                            if f.is_file()})  # fmt: skip
    rows = [[None if v != v else v for v in row] for row in read.signals.tolist()]
    return {"signals": rows, "leads": list(read.leads), "fs": read.fs, "units": read.units[0]}


def as_csv(given: dict) -> str:
    rows = zip(*given["signals"], strict=True)
    lines = [",".join("" if v is None else repr(v) for v in row) for row in rows]
    return "\n".join([",".join(given["leads"]), *lines])


def forms(archive: Path, name: str) -> dict[str, dict]:
    """The same record in every form that the endpoint reads."""
    given = as_signals(archive / name)
    return {
        "numbers": {"json": given},
        "record": {"json": {"record": str(archive / name)}},
        "files": {"files": files_of(archive / name)},
        "csv": {"files": [("file", ("r.csv", as_csv(given)))], "data": {"fs": str(given["fs"]), "units": "mV"}},
    }


def names(archive: Path) -> list[str]:
    return sorted(str(f.relative_to(archive))[:-4] for f in archive.rglob("*.hea") if not f.is_symlink())


def numbers_of(rows) -> list:
    kept = ["indicator", "probability", "value", "lower", "upper"]
    told = [[None if v != v or v is None else v for v in (r[k] for k in kept)] for r in rows]
    return [[v if isinstance(v, str) or v is None else pytest.approx(v, abs=1e-6) for v in row] for row in told]


def test_every_form_gives_the_numbers_of_the_back_fill_and_of_the_model(filled, server, archive, bundles):
    estimator = Estimator(model.load(bundles[0]), Compute(precision="float32"))
    table = filled[0]
    assert len(names(archive)) > 20
    for name in names(archive):
        rows = table[table.record_id == name].to_dict("records")
        texts = {f.name: f.read_bytes() for f in (archive / name).parent.iterdir() if f.is_file()}
        ecg = Ecg(header=(archive / f"{name}.hea").read_text(), blobs=texts)
        windows = preprocess(ecg.read(("II",)), estimator.recipe)
        means = estimator.logits(windows.x).astype(float).mean(axis=0, keepdims=True)
        alone = model.decode(estimator.card, means)[0] if len(windows.x) else [None] * 3
        for form, options in forms(archive, name).items():
            got = server.estimate(**options)
            assert got.status_code == 200, (name, form, got.text)
            answer = got.json()
            found = [
                [e[k] for k in ("indicator", "probability", "value", "lower", "upper")] for e in answer["estimates"]
            ]
            assert found == numbers_of(rows), (name, form)
            assert answer["status"] == rows[0]["status"]
            assert answer["n_windows"] == rows[0]["n_windows"]
            if len(windows.x):
                assert found[0][1] == pytest.approx(alone[0], abs=1e-6)
                assert found[1][2] == pytest.approx(alone[1], abs=1e-6)


def test_windows_are_those_of_the_back_fill(filled, server, archive):
    table = filled[1]
    rows = table[table.record_id == "made/three"].sort_values("window_start", kind="stable").to_dict("records")
    assert len(rows) == 3 * len(INDICATORS)
    answer = server.estimate("?granularity=window", files=files_of(archive / "made" / "three")).json()
    found = [[e[k] for k in ("indicator", "probability", "value", "lower", "upper")] for e in answer["estimates"]]
    assert found == numbers_of(rows)
    assert [e["window_start"] for e in answer["estimates"]] == [r["window_start"] for r in rows]
    assert [w["flags"] for w in answer["windows"]] == [[], [], ["flat"]]
    assert [w["usable"] for w in answer["windows"]] == [True, True, False]


def test_the_answer_is_the_contract(server, archive, bundles):
    answer = server.estimate(files=files_of(archive / "made" / "three")).json()
    card = model.load_card(bundles[0])
    assert list(answer) == [
        "id", "model", "status", "status_detail", "n_windows", "windows", "estimates", "disclaimer",
    ]  # fmt: skip
    assert answer["model"] == {
        "name": card.model_id, "version": card.model_version, "weights_sha256": card.weights_sha256,
    }  # fmt: skip
    assert answer["disclaimer"] == "An estimate for research; not a measurement, not for diagnosis."
    potassium = answer["estimates"][0]
    assert {k: potassium[k] for k in ("indicator", "analyte", "name", "direction", "loinc", "unit", "calibrated")} == {
        "indicator": "potassium_high", "analyte": "potassium", "name": "Potassium", "direction": "high",
        "loinc": "2823-3", "unit": "mmol/L", "calibrated": False,
    }  # fmt: skip
    assert set(potassium) - {"indicator", "analyte", "name", "direction", "loinc", "unit", "calibrated"} == {
        "probability", "threshold", "abnormal", "value", "lower", "upper", "tier", "auroc", "auroc_low", "auroc_high",
    }  # fmt: skip


def test_an_ecg_without_a_usable_window_is_answered_without_numbers(server):
    flat = {**GOOD, "signals": [[0.0] * 5000]}
    got = server.estimate(json=flat)
    assert got.status_code == 200
    assert got.json()["status"] == "flat"
    assert got.json()["status_detail"] == "II: flat in 1 of 1 windows"
    assert got.json()["n_windows"] == 0
    assert all(e["probability"] is None and e["value"] is None for e in got.json()["estimates"])


def test_the_strip_is_the_ecg(server, archive):
    given = as_signals(archive / "made" / "three")
    given["signals"][3][100:105] = [None] * 5
    strip = server.estimate("?strip=true", json=given).json()["strip"]
    assert strip["fs"] == 250
    assert strip["leads"] == list(TWELVE_LEADS)
    assert [len(row) for row in strip["signals"]] == [7500] * 12
    assert strip["signals"][3][50:53] == [None] * 3
    drawn = np.array(strip["signals"][1], float)
    np.testing.assert_allclose(drawn[100:4000], np.array(given["signals"][1][200:8000:2]), atol=0.06)
    assert np.corrcoef(drawn[100:4000], given["signals"][1][200:8000:2])[0, 1] > 0.999
    assert "strip" not in server.estimate(json=given).json()


def test_the_models_and_their_cards(server, bundles):
    told = server.get("/v1/models").json()["models"]
    assert [(m["name"], m["default"], m["leads"]) for m in told] == [
        ("untrained-tiny", True, ["II"]), ("twelve", False, list(TWELVE_LEADS)),
    ]  # fmt: skip
    card = server.get("/v1/models/twelve").json()
    assert model.Card.model_validate(card) == model.load_card(bundles[1])
    versioned = f"untrained-tiny@{told[0]['version']}"
    assert server.get(f"/v1/models/{versioned}").json()["model_version"] == told[0]["version"]
    assert server.get("/v1/models/nobody").json()["code"] == "no_such_model"


def test_a_request_chooses_its_model(server):
    example = server.get("/v1/example").json()
    one, twelve = (server.estimate(f"?model={m}", json=example).json() for m in ("untrained-tiny", "twelve"))
    assert one["model"]["name"] == "untrained-tiny"
    assert twelve["model"]["name"] == "twelve"
    assert one["estimates"][0]["probability"] != twelve["estimates"][0]["probability"]
    got = server.estimate("?model=twelve", json=GOOD)
    assert (got.status_code, got.json()["code"]) == (422, "missing_lead")


def test_the_example_is_good_but_for_its_last_window(server):
    answer = server.estimate(json=server.get("/v1/example").json()).json()
    assert answer["status"] == "ok"
    assert [w["usable"] for w in answer["windows"]] == [True, True, False]
    files = [(f"example.{end}", server.get(f"/v1/example.{end}").content) for end in ("hea", "dat")]
    again = server.estimate(files=[("file", f) for f in files]).json()
    assert again["estimates"] == answer["estimates"]
    assert again["windows"] == answer["windows"]


def test_a_batch_answers_each_by_itself(server, archive):
    ecgs = [GOOD, {"record": str(archive / "made" / "three")}, {**GOOD, "fs": -1}, {"record": "s3://x/y"}, 5, GOOD]
    got = server.ask("POST", "/v1/estimates:batch", json={"ecgs": ecgs})
    assert got.status_code == 200
    items = got.json()["items"]
    assert [i["status"] for i in items] == [200, 200, 422, 403, 422, 200]
    assert [i["problem"]["code"] for i in items if "problem" in i] == [
        "invalid_field", "record_not_allowed", "invalid_field",
    ]  # fmt: skip
    assert items[0]["answer"]["estimates"] == items[5]["answer"]["estimates"]
    assert items[0]["answer"]["estimates"] == server.estimate(json=GOOD).json()["estimates"]
    assert items[1]["answer"]["n_windows"] == 2


@pytest.mark.parametrize(
    ("body", "code"),
    [({}, "missing_field"), ({"ecgs": []}, "missing_field"), ({"ecgs": GOOD}, "missing_field"),
     ({"ecgs": [GOOD], "x": 1}, "unknown_field"), ({"ecgs": [{}] * 33}, "too_many_ecgs"), ([GOOD], "not_an_object")],
)  # fmt: skip
def test_a_batch_that_is_none(server, body, code):
    got = server.ask("POST", "/v1/estimates:batch", json=body)
    assert (got.json()["code"], got.status_code) == (code, 413 if code == "too_many_ecgs" else 422)


BAD = all_of_them()


@pytest.mark.parametrize("bad", BAD, ids=lambda b: b.name)
def test_a_bad_request_is_told_so(server: Endpoint, archive, bad: Bad):
    options = dict(bad.options)
    if "record" in options.get("json", {}) and isinstance(options["json"]["record"], str):
        options["json"] = {**options["json"], "record": options["json"]["record"].replace("PREFIX", str(archive))}
    got = server.estimate(bad.query, **options)
    assert (got.status_code, got.json()["code"]) == (bad.status, bad.code), got.text
    assert got.headers["Content-Type"] == "application/problem+json"
    told = got.json()
    assert told["status"] == bad.status
    assert told["type"] == f"urn:anyecg:problem:{bad.code}"
    assert told["mend"]
    assert told["detail"]
    assert "Traceback" not in got.text
    assert len(got.text) < 1500


def test_the_server_is_up_after_all_of_them(server):
    assert len(BAD) >= 60
    assert len({b.name for b in BAD}) == len(BAD)
    assert server.get("/healthz").json() == {"status": "ok", "detail": {}}
    assert server.get("/readyz").status_code == 200
    assert server.estimate(json=GOOD).json()["status"] == "ok"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [("GET", "/v1/nothing", 404, "not_found"), ("GET", "/v1/estimates", 405, "method_not_allowed"),
     ("DELETE", "/v1/models", 405, "method_not_allowed"), ("GET", "/static/../serve.py", 404, "not_found"),
     ("GET", "/static/%2e%2e/serve.py", 404, "not_found"), ("POST", "/", 405, "method_not_allowed")],
)  # fmt: skip
def test_a_path_or_method_that_is_not(server, method, path, status, code):
    got = server.ask(method, path)
    assert (got.status_code, got.json()["code"]) == (status, code)


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/", "/docs", "/v1/models", "/metrics"])
def test_head_passes_serve_too(server, path):
    with requests.Session() as session:  # one connection: an answer with a body would spoil the next
        for method in ("HEAD", "GET", "HEAD"):
            got = session.request(method, server.url + path, headers={"X-API-Key": server.key}, timeout=60)
            assert (got.status_code, bool(got.content)) == (200, method == "GET")


def test_keys(server, secrets):
    _, right, revoked = secrets
    cases = {None: (401, "no_key"), "anyecg_wrong": (401, "wrong_key"), revoked: (403, "revoked_key"),
             right + "x": (401, "wrong_key"), right: (200, None), "": (401, "no_key")}  # fmt: skip
    for key, expected in cases.items():
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        got = requests.post(server.url + "/v1/estimates", headers=headers, json=GOOD, timeout=30)
        assert (got.status_code, got.json().get("code")) == expected, key
        assert ("WWW-Authenticate" in got.headers) == (expected[0] == 401)
    assert requests.get(server.url + "/v1/models", headers={"X-API-Key": right}, timeout=30).status_code == 200
    for path in ("/v1/models", "/v1/example", "/metrics", "/v1/nothing", "/nothing"):
        assert requests.get(server.url + path, timeout=30).json()["code"] == "no_key", path
    for path in ("/healthz", "/readyz", "/openapi.json", "/docs", "/"):
        assert requests.get(server.url + path, timeout=30).status_code == 200, path


def test_a_key_is_revoked_while_the_server_runs(server, secrets, monkeypatch):
    file, *_ = secrets
    text = Path(file).read_text()
    secret, key = keys.made("late")
    Path(file).write_text(text + key.line() + "\n")
    late = Endpoint(server.url, secret)
    assert _within(lambda: late.get("/v1/models").status_code == 200)
    Path(file).write_text(text + key.line() + ":revoked\n")
    assert _within(lambda: late.get("/v1/models").status_code == 403)
    assert server.get("/v1/models").status_code == 200
    Path(file).write_text("not a file of keys\n")
    assert _within(lambda: server.get("/v1/models").status_code == 401)
    Path(file).write_text(text)
    assert _within(lambda: server.get("/v1/models").status_code == 200)


def _within(true, seconds: float = 20) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if true():
            return True
        time.sleep(0.3)
    return False


def test_logs_hold_no_key_and_no_patient(server, secrets, archive):
    """Planted wherever a request has room for it."""
    key = secrets[1]
    server.get(f"/v1/models/{PLANTED}")
    server.get(f"/{PLANTED}")
    server.get(f"/v1/models?patient={PLANTED}")
    server.get("/v1/models", headers={"X-Request-ID": PLANTED, "User-Agent": PLANTED, "Cookie": PLANTED})
    server.estimate(f"?model={PLANTED}", json=GOOD)
    server.estimate(json={**GOOD, "leads": [PLANTED]})
    server.estimate(json={**GOOD, PLANTED: 1})
    server.estimate(json={"record": f"{archive}/{PLANTED}"})
    server.estimate(json={"record": f"s3://{PLANTED}/{PLANTED}"})
    planted_header = header().replace("r 1", f"{PLANTED} 1") + f"# {PLANTED}\n"
    server.estimate(**upload((f"{PLANTED}.hea", planted_header), ("r.dat", dat())))
    server.estimate(**upload((f"{PLANTED}.csv", f"{PLANTED}\n1\n"), fs="500"))
    server.estimate(**upload(("a.csv", "II\n1"), **{PLANTED: PLANTED}))
    wrong = "anyecg_wrong_but_planted"
    Endpoint(server.url, wrong).get("/v1/models")
    before = len(server.get("/metrics").text)
    assert before > 100
    logs = Path(ray._private.worker._global_node.get_logs_dir_path())
    texts = {f: f.read_text(errors="replace") for f in logs.rglob("*") if f.is_file()}
    requests_logged = [line for t in texts.values() for line in t.splitlines() if '"route": "/v1/estimates"' in line]
    assert len(requests_logged) > 20
    told = json.loads(requests_logged[0][requests_logged[0].index("{") :])
    assert set(told) == {"id", "method", "route", "status", "code", "key", "ms"}
    assert told["key"] == "clinic"
    for file, text in texts.items():
        for word in (PLANTED, key, wrong, secrets[2]):
            assert word not in text, file


def test_metrics_count_requests_by_status(server):
    def counted(status):
        lines = server.get("/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith("anyecg_requests_total")
                   and f'status="{status}"' in line and 'route="/v1/estimates"' in line)  # fmt: skip

    before = counted(200), counted(422)
    server.estimate(json=GOOD)
    server.estimate(json={**GOOD, "fs": 0})
    assert (counted(200), counted(422)) == (before[0] + 1, before[1] + 1)


def test_fhir(server, archive):
    files = files_of(archive / "made" / "three")
    plain = server.estimate(files=files).json()
    got = server.estimate(files=files, headers={"Accept": "application/fhir+json, application/json;q=0.5"})
    assert got.headers["Content-Type"] == "application/fhir+json"
    assert got.json()["resourceType"] == "Bundle"
    device, *observations = [e["resource"] for e in got.json()["entry"]]
    assert device["resourceType"] == "Device"
    assert [o["code"]["coding"][0]["code"] for o in observations] == INDICATORS
    for o, e in zip(observations, plain["estimates"], strict=True):
        wanted = e["value"] if e["value"] is not None else e["probability"]
        assert o["valueQuantity"]["value"] == pytest.approx(wanted, abs=1e-6)
    windows = server.estimate("?granularity=window", files=files, headers={"Accept": "application/fhir+json"}).json()
    assert len(windows["entry"]) == 1 + 3 * len(INDICATORS)
    assert server.estimate(files=files, headers={"Accept": "application/json, application/fhir+json"}).json()["model"]


def test_every_answer_forbids_what_a_page_could_be_made_to_do(server):
    for path in ("/", "/docs", "/v1/models", "/nothing", "/static/reference/start.js"):
        headers = server.get(path).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "default-src 'self'" in headers["Content-Security-Policy"]


def test_the_statuses_of_an_ecg_are_those_of_the_data_contract(server):
    codes = {b.code for b in BAD if b.status == 422}
    assert {Status.TOO_SHORT, Status.SAMPLING_RATE, Status.MISSING_LEAD, Status.TRUNCATED} <= codes
    assert schema.Status("unreadable") in codes


def test_the_config_file_for_serve_deploy_is_one():
    given = yaml.safe_load((Path(__file__).parent.parent / "jobs" / "serve.yaml").read_text())
    (app,) = ServeDeploySchema.model_validate(given).applications
    module, name = app.import_path.split(":")
    build = getattr(importlib.import_module(module), name)
    (settings,) = inspect.signature(build).parameters.values()
    assert settings.annotation.model_validate(app.args).auth
    assert not given["logging_config"]["enable_access_log"]
    assert given["http_options"]["request_timeout_s"] == hosting.LONGEST * Limits().timeout


@pytest.mark.slow
def test_the_command_line_serves_and_ends_when_told(bundles, tmp_path):
    port = free_port()
    line = [sys.executable, "-m", "anyecg_ray", "serve", "--bundle", bundles[0], "--no-auth", "--port", str(port)]
    env = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env) as process:
        until = time.monotonic() + 120
        told = process.stdout.readline()
        assert told.startswith(f"http://127.0.0.1:{port} serves "), process.stderr.read()
        assert time.monotonic() < until
        got = requests.post(f"http://127.0.0.1:{port}/v1/estimates", json=GOOD, timeout=60)
        assert got.json()["status"] == "ok"
        spoofed = requests.get(f"http://127.0.0.1:{port}/v1/models", headers={"Host": "evil.example"}, timeout=60)
        assert (spoofed.status_code, spoofed.json()["code"]) == (403, "not_local")
        upload = Upload(f"http://127.0.0.1:{port}", "/v1/estimates", json.dumps(GOOD).encode())
        time.sleep(1)  # until it is at work
        process.send_signal(signal.SIGTERM)
        time.sleep(2)
        status, answer = upload.finished()
        assert (status, answer["status"]) == (200, "ok")
        assert process.wait(90) == 0
        assert process.stderr.read() == ""

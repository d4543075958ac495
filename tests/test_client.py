"""The client against a real endpoint, and what it says where there is none."""

import http.server
import json
import re
import shlex
import threading
from pathlib import Path

import numpy as np
import pytest
from bad_records import LEADS, beats, write
from endpoint import Endpoint, bundle, running

from anyecg_ray import client, keys
from anyecg_ray.cli import main
from anyecg_ray.client import ProblemError, estimate
from anyecg_ray.config import InputError, JobError

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    write(folder, "r", beats(seconds=20))
    return folder / "r"


@pytest.fixture(scope="module")
def server(record, tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    secret, key = keys.made("notebook")
    (folder / "keys").write_text(key.line())
    settings = {"bundle": [bundle(folder)], "keys": str(folder / "keys"), "record_prefix": [str(record.parent)]}
    with running(secret, **settings) as endpoint:
        yield endpoint


@pytest.fixture
def key(server, monkeypatch):
    monkeypatch.setenv("ANYECG_API_KEY", server.key)


def test_every_kind_of_record_gives_the_same(server: Endpoint, record, key, tmp_path):
    signals = beats(seconds=20) / 1000
    table = "\n".join([",".join(LEADS), *(",".join(map(repr, row)) for row in signals.T.tolist())])
    (tmp_path / "r.csv").write_text(table)
    answers = [
        estimate(record, server.url),
        estimate(f"{record}.hea", server.url),
        estimate(f"file://{record}", server.url),
        estimate(signals, server.url, fs=500, leads=LEADS),
        estimate(signals.tolist(), server.url + "/", fs=500, leads=LEADS, units="mV"),
        estimate(tmp_path / "r.csv", server.url, fs=500),
    ]
    assert answers[0]["n_windows"] == 2
    for answer in answers:
        assert answer["estimates"] == answers[0]["estimates"]


def test_numbers_may_be_missing(server, key):
    signals = beats(leads=1)[0] / 1000
    signals[100:110] = np.nan
    answer = estimate(signals, server.url, fs=500, leads=["II"], strip=True, granularity="window")
    assert answer["status"] == "ok"
    assert None in answer["strip"]["signals"][0]
    assert answer["estimates"][0]["window_start"] == 0


def test_a_multi_segment_record_is_sent_whole(server, key, data):
    (header,) = sorted((data / "wfdb-python").rglob("v102s.hea"))[:1]
    files = [f.name for f in client._files(header)]
    assert header.name in files
    assert len(files) == len(set(files)) > 3
    with pytest.raises(ProblemError) as raised:
        estimate(header, server.url)
    assert raised.value.code in ("sampling_rate", "missing_lead", "too_long", "too_short")


def test_a_refusal_says_what_is_wrong(server, key, record):
    with pytest.raises(ProblemError, match=r"send samples|greater than 0") as raised:
        estimate([[1.0, 2.0]], server.url, fs=-1, leads=["II"])
    assert raised.value.code == "invalid_field"
    with pytest.raises(ProblemError, match=r"asks for an API key|not known"):
        estimate(record, server.url, key="wrong")
    with pytest.raises(ProblemError, match="no such model"):
        estimate(record, server.url, model="gpt")


def test_the_command_prints_a_table_or_json(server, key, record, capsys):
    assert main(["estimate", str(record), "--url", server.url]) == 0
    out = capsys.readouterr().out
    assert "untrained-tiny" in out
    assert "2 of 2 windows" in out
    assert re.search(r"potassium_high +0\.\d{3} \(not calibrated\)", out)
    assert re.search(r"calcium_value +-?\d.* mg/dL", out)
    assert out.splitlines()[-1].startswith("An estimate for research")
    assert main(["estimate", str(record), "--url", server.url, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["status"] == "ok"


def test_the_commands_exit_code_is_2_for_a_refusal_and_1_for_silence(server, record, capsys, monkeypatch):
    monkeypatch.delenv("ANYECG_API_KEY", raising=False)
    assert main(["estimate", str(record), "--url", server.url]) == 2
    assert "API key" in capsys.readouterr().err
    assert main(["estimate", str(record), "--url", "http://127.0.0.1:1"]) == 1
    assert "is `anyecg serve` running there?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "message"),
    [("nowhere", "cannot be read"), ("x.csv", "give --fs")],
)
def test_what_cannot_be_sent_is_told_before_it_is(tmp_path, given, message):
    with pytest.raises(InputError, match=message):
        estimate(tmp_path / given)
    with pytest.raises(InputError, match="fs and leads"):
        estimate([[1.0]])


SAMPLES = {"record": [[1.0]], "fs": 500, "leads": ["II"], "url": "http://127.0.0.1:1"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"fs": np.inf}, "fs: inf is no sampling rate; give"),
        ({"fs": np.nan}, "fs: nan is no sampling rate; give"),
        ({"fs": "fast"}, "fs: 'fast' is no sampling rate; give"),
        ({"record": [[1.0, np.inf]]}, "record: a sample is infinite; give NaN"),
        ({"record": [[1.0, 2.0], [1.0]]}, "record: is no table of numbers; give"),
        ({"record": ["one"]}, "record: is no table of numbers; give"),
        ({"key": "anyecg_x\n"}, "key: holds what no key holds"),
        ({"key": "ключ"}, "key: holds what no key holds"),
        ({"url": "127.0.0.1:8000"}, "url: '127.0.0.1:8000' is no address; give http://"),
        ({"url": "localhost"}, "url: 'localhost' is no address; give http://"),
        ({"url": "http://"}, "url: 'http://' is no address; give http://"),
        ({"record": "r"}, "fs and units: r is read as a WFDB record, whose header tells them; leave them out"),
        ({"record": "r", "fs": None, "units": "uV"}, "fs and units: r is read as a WFDB record"),
        ({"record": "s3://b/r.csv"}, "fs and units: s3://b/r.csv is read as a WFDB record"),
    ],
)
def test_what_is_wrong_is_told_by_its_name_with_the_mend(given, message):
    with pytest.raises(InputError) as raised:
        estimate(**{**SAMPLES, **given})
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)


def test_a_rate_may_be_any_number(busy):
    for fs in (np.int64(250), np.float32(250), 250, 250.0):
        assert estimate(**{**SAMPLES, "url": busy, "fs": fs}) == {"status": "ok"}


def test_the_command_tells_a_rate_that_it_would_not_use(record, capsys):
    assert main(["estimate", str(record), "--fs", "250"]) == 2
    assert capsys.readouterr().err.startswith("anyecg: fs and units: ")


class Busy(http.server.BaseHTTPRequestHandler):
    """Answers 503 twice, then as it is told."""

    asked = 0
    wait = "0"
    after: tuple[int, bytes] = (200, b'{"status": "ok"}')

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        type(self).asked += 1
        status, body = self.after if self.asked > 2 else (503, b'{"detail": "busy"}')
        self.send_response(status)
        self.send_header("Retry-After", self.wait)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def busy():
    Busy.asked = 0
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Busy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.mark.parametrize("wait", ["0", "Wed, 21 Oct 2015 07:28:00 GMT"])
def test_a_busy_server_is_asked_again(busy, monkeypatch, wait):
    monkeypatch.setattr(Busy, "wait", wait)
    assert estimate([[1.0]], busy, fs=1, leads=["I"]) == {"status": "ok"}
    assert Busy.asked == 3


def test_a_server_that_stays_busy_is_told(busy):
    with pytest.raises(JobError, match="503, busy"):
        estimate([[1.0]], busy, fs=1, leads=["I"], attempts=2)
    assert Busy.asked == 2


def test_what_is_no_endpoint_is_told(busy, monkeypatch):
    monkeypatch.setattr(Busy, "after", (200, b"<html>"))
    with pytest.raises(JobError, match="is it an anyecg endpoint"):
        estimate([[1.0]], busy, fs=1, leads=["I"])


def test_the_notebook_example_of_the_docs_runs(server, key, record, tmp_path, monkeypatch, capsys):
    page = (ROOT / "docs" / "serving.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.S)
    monkeypatch.chdir(record.parent)
    exec(compile(code.replace("http://127.0.0.1:8000", server.url), "serving", "exec"), {})
    assert "potassium_high" in capsys.readouterr().out


def test_the_curl_examples_of_the_docs_run(server, key, record, tmp_path):
    import subprocess

    page = (ROOT / "docs" / "serving.md").read_text()
    blocks = re.findall(r"```sh\n(.*?)```", page, re.S)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line.startswith("curl ")]
    assert len(lines) >= 5
    for line in lines:
        line = line.replace("http://127.0.0.1:8000", server.url).replace("$ANYECG_API_KEY", server.key)
        command = [*shlex.split(line), "--silent", "--show-error", "--fail"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
        assert done.returncode == 0, (line, done.stderr)
        if "/v1/estimates" in line:
            told = json.loads(done.stdout)
            assert told.get("status") == "ok" or told["resourceType"] == "Bundle", line

"""`status` tells from files alone what is done, and whether somebody is at work."""

import json
import subprocess
import sys
import time

import psutil
import pyarrow.parquet as pq
import pytest
from test_estimate_rows import SPANS, staging

from anyecg_ray import storage
from anyecg_ray.cli import main
from anyecg_ray.config import InputError, JobError
from anyecg_ray.delivery import Delivery
from anyecg_ray.lease import FILE, Lease, alive
from anyecg_ray.ledger import Ledger
from anyecg_ray.status import ShowStatus, status
from anyecg_ray.warehouses import Sink, opened
from anyecg_ray.weights import Init, init, untrained

JOB = {"granularity": "span", "row_groups": []}


def ledger(folder):
    book = Ledger(str(folder), "potassium", "1")
    book.claim(JOB)
    return book


def test_what_is_done_and_delivered(tmp_path, capsys):
    card = untrained("tiny", ["potassium_high", "potassium_value"], ["II"], "ecgfounder-finetune", 0).card
    book = ledger(tmp_path)
    with Lease(book.staging, {"verb": "backfill"}) as lease:
        delivery = Delivery(book, opened(Sink(), str(tmp_path)), card, 60, lease)
        delivery.add("000000-000000", book.stage("000000-000000", staging(SPANS)))
        lease.tell(shards=4, spans=12, run_total=12, run_spans=3, run_windows=5, run_seconds=1.5)
        lease._write()
        (told,) = status(ShowStatus(out=str(tmp_path)))
        assert told["state"] == "running"
        assert (told["shards_done"], told["shards"], told["spans_done"], told["spans"]) == (1, 4, 3, 12)
        assert told["spans_by_status"] == {"ok": 1, "flat": 1, "missing_signal": 1}
        assert told["seconds_left"] == pytest.approx(9 / 2, abs=1)
        assert told["shards_delivered"] == {}
        with delivery:
            pass
    assert "shards 1 of 4, spans 3 of 12" in capsys.readouterr().out
    assert main(["status", "--out", str(tmp_path), "--format", "json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert told["state"] == "ended"
    assert list(told["shards_delivered"].values()) == [1]
    assert len(pq.read_table(tmp_path / "ecg_lab_estimate" / "1")) == 6


def test_another_format_is_refused_in_one_line(tmp_path, capsys):
    assert main(["status", "--out", str(tmp_path), "--format", "xml"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "setting format" in line
    assert "'text' or 'json'" in line


def test_the_last_error_is_told(tmp_path):
    book = ledger(tmp_path)
    with pytest.raises(JobError), Lease(book.staging, {}):
        raise JobError("the warehouse is on fire")
    (told,) = status(ShowStatus(out=str(tmp_path)))
    assert (told["state"], told["last_error"]) == ("stopped", "the warehouse is on fire")


def test_publish_leaves_what_a_back_fill_said_of_its_size(tmp_path):
    book = ledger(tmp_path)
    with Lease(book.staging, {"verb": "backfill"}) as lease:
        lease.tell(shards=4, spans=12)
    with Lease(book.staging, {"verb": "publish"}):
        pass
    (told,) = status(ShowStatus(out=str(tmp_path)))
    assert (told["shards"], told["spans"]) == (4, 12)


def test_a_commit_under_way_is_not_told_as_made(tmp_path):
    book = ledger(tmp_path)
    with Lease(book.staging, {}):
        for number in (1, 2):
            storage.write_atomic(f"{book.delivered}/w/{number:08d}.json", json.dumps({f"s{number}": 0}).encode())
        (told,) = status(ShowStatus(out=str(tmp_path)))
    assert told["shards_delivered"] == {"w": 1}


def test_what_an_interrupted_driver_delivered_is_told(tmp_path):
    card = untrained("tiny", ["potassium_high", "potassium_value"], ["II"], "ecgfounder-finetune", 0).card
    book = ledger(tmp_path)

    def interrupted():
        with (
            Lease(book.staging, {}) as lease,
            Delivery(book, opened(Sink(), str(tmp_path)), card, 60, lease) as delivery,
        ):
            delivery.add("000000-000000", book.stage("000000-000000", staging(SPANS)))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with Lease(book.staging, {}):
        (told,) = status(ShowStatus(out=str(tmp_path)))
    assert list(told["shards_delivered"].values()) == [1]


def test_no_back_fill_here(tmp_path, capsys):
    assert main(["status", "--out", str(tmp_path)]) == 2
    assert "no back-fill here" in capsys.readouterr().err


def test_a_second_driver_is_refused_while_the_first_lives(tmp_path):
    with (
        Lease(str(tmp_path), {}),
        pytest.raises(InputError, match="another back-fill is at work"),
        Lease(str(tmp_path), {}),
    ):
        pass
    with Lease(str(tmp_path), {}):
        pass  # it ended, so the next may


def test_a_driver_that_died_here_leaves_nothing_in_the_way(tmp_path):
    dead = {"token": "t", "state": "running", "beat_at": time.time()}
    with Lease(str(tmp_path), {}) as lease:
        mine = json.loads(storage.read_bytes(str(tmp_path / FILE)))
    gone = {**mine, **dead, "born": mine["born"] - 1000}
    (tmp_path / FILE).write_text(json.dumps(gone))
    with Lease(str(tmp_path), {}):
        pass
    del lease


def test_a_driver_that_ended_and_was_not_asked_for_yet_is_dead(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with Lease(str(tmp_path), {}):
        mine = json.loads(storage.read_bytes(str(tmp_path / FILE)))
    theirs = {**mine, "pid": child.pid, "born": psutil.Process(child.pid).create_time(), "state": "running"}
    assert alive(theirs)
    child.kill()
    until = time.monotonic() + 10
    while psutil.Process(child.pid).status() != psutil.STATUS_ZOMBIE and time.monotonic() < until:
        time.sleep(0.01)
    assert not alive(theirs)
    child.wait()


def test_a_driver_elsewhere_is_watched_for_a_sign_of_life(tmp_path, monkeypatch):
    from anyecg_ray import lease

    monkeypatch.setattr(lease, "SILENT", 0.2)
    with Lease(str(tmp_path), {}):
        mine = json.loads(storage.read_bytes(str(tmp_path / FILE)))
    away = {**mine, "host": "elsewhere", "state": "running", "beat_at": time.time()}
    (tmp_path / FILE).write_text(json.dumps(away))
    with Lease(str(tmp_path), {}):  # silent: it takes over
        pass
    ahead = {**mine, "host": "elsewhere", "state": "running", "beat_at": time.time() - 3600}
    (tmp_path / FILE).write_text(json.dumps(ahead))  # by our clock, which may be an hour ahead of a driver that lives
    began = time.monotonic()
    with Lease(str(tmp_path), {}):
        assert time.monotonic() - began > 0.2
    container = {**mine, "numbers": "pid:[1]", "pid": 1, "state": "running", "beat_at": time.time() - 60}
    (tmp_path / FILE).write_text(json.dumps(container))  # its numbers are not ours, and its clock may be behind
    began = time.monotonic()
    with Lease(str(tmp_path), {}):
        assert time.monotonic() - began > 0.2
    now = away | {"beat_at": time.time()}
    beats = iter([now, now | {"beat_at": time.time() + 5}])
    monkeypatch.setattr(lease, "read", lambda uri: next(beats))
    with pytest.raises(InputError, match="on elsewhere"), Lease(str(tmp_path), {}):
        pass


def test_who_lost_the_lease_commits_nothing(tmp_path):
    with Lease(str(tmp_path), {}) as first:
        told = json.loads(storage.read_bytes(str(tmp_path / FILE)))
        (tmp_path / FILE).write_text(json.dumps(told | {"token": "somebody else"}))
        with pytest.raises(JobError, match="taken over"):
            first.check()


def test_publish_into_a_second_warehouse(tmp_path, capsys):
    init(Init(out=str(tmp_path / "bundle"), preset="tiny", indicators=["potassium_high", "potassium_value"]))
    card = json.loads((tmp_path / "bundle" / "card.json").read_text())
    book = Ledger(str(tmp_path / "out"), card["model_id"], card["model_version"])
    book.claim(JOB)
    book.stage("000000-000000", staging(SPANS))
    book.stage("000000-000003", staging(SPANS[:1]))
    line = ["publish", "--out", str(tmp_path / "out"), "--bundle", str(tmp_path / "bundle"), "--sink.kind", "delta"]
    where = ["--sink.uri", str(tmp_path / "second")]
    assert main([*line, *where]) == 0
    assert "2 shards published" in capsys.readouterr().out
    assert main([*line, *where]) == 0
    assert "0 shards published" in capsys.readouterr().out
    from deltalake import DeltaTable

    assert len(DeltaTable(tmp_path / "second").to_pyarrow_table()) == 8

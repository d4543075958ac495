"""Stop a back-fill anywhere, run the same line again, and every span is there once."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from bad_records import copy_good, write_broken

from anyecg_ray.manifest import Manifest, manifest
from anyecg_ray.weights import Init, init

SPANS = 12 * 100 + 17


@pytest.fixture(scope="module")
def job(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("job")
    copy_good(data, folder / "archive", 100)
    write_broken(folder / "archive" / "broken")
    manifest(Manifest(archive=str(folder / "archive"), out=str(folder / "m.parquet"), workers=0))
    init(Init(out=str(folder / "bundle"), preset="tiny"))
    return folder


def start(job: Path, out: Path) -> "subprocess.Popen[str]":
    flags = ["--manifest", str(job / "m.parquet"), "--bundle", str(job / "bundle"), "--out", str(out)]
    command = [sys.executable, "-m", "anyecg_ray", "backfill", *flags, "--shard-spans", "25"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def parts(out: Path) -> int:
    return len(list(out.glob("staging/*/*/part-*.parquet")))


def stopped(job, out, how, after):
    """Start, wait for more committed shards than there were, stop; returns exit code and what it said."""
    before, process = parts(out), start(job, out)
    deadline = time.monotonic() + 120
    while parts(out) < before + after and time.monotonic() < deadline:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    if how == signal.SIGKILL:  # the driver and all that it started: the machine is gone
        os.killpg(process.pid, how)
        subprocess.run(["pkill", "-KILL", "-s", str(process.pid)], check=False)
    else:
        process.send_signal(how)
    _, said = process.communicate(timeout=60)
    return process.returncode, said


def check(out):
    rows = pd.read_parquet(out / "ecg_lab_estimate")
    assert len(rows) == SPANS * 5
    assert not rows.duplicated(["span_id", "indicator", "model_version"]).any()
    staged = pd.read_parquet(out / "staging")
    assert staged.span_id.is_unique
    assert len(staged) == SPANS
    return rows.sort_values(["span_id", "indicator"]).drop(columns=["run_id", "estimated_at"]).reset_index(drop=True)


@pytest.fixture(scope="module")
def undisturbed(job):
    out = job / "undisturbed"
    _, said = (process := start(job, out)).communicate(timeout=200)
    assert process.returncode == 0, said
    return check(out)


def test_killed_twice_and_finished(job, undisturbed):
    out = job / "killed"
    for _ in range(2):
        stopped(job, out, signal.SIGKILL, 3)
    assert 0 < parts(out) < SPANS / 25
    shown, _ = (process := start(job, out)).communicate(timeout=200)
    assert process.returncode == 0
    assert "shards are done, going on" in shown
    pd.testing.assert_frame_equal(check(out), undisturbed)
    assert not list(out.rglob("*.tmp")) or parts(out) == -(-SPANS // 25)  # half-written files do not count


def test_interrupted_by_hand(job, undisturbed):
    out = job / "interrupted"
    code, said = stopped(job, out, signal.SIGINT, 2)
    assert code == 130
    assert said.strip().splitlines()[-1] == "anyecg: interrupted; the same command goes on where this one stopped"
    assert "Traceback" not in said
    process = start(job, out)
    process.communicate(timeout=200)
    assert process.returncode == 0
    pd.testing.assert_frame_equal(check(out), undisturbed)

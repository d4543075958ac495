"""Stop a back-fill anywhere, run the same line again, and every span is in the warehouse once."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import places
import pytest
from bad_records import copy_good, write_broken
from planted import PLANTED

from anyecg_ray.manifest import Manifest, manifest
from anyecg_ray.weights import Init, init

SPANS = 12 * 170 + 17
SHARD = 20


@pytest.fixture(scope="module")
def job(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("job")
    copy_good(data, folder / "archive", 170)
    write_broken(folder / "archive" / "broken")
    manifest(Manifest(archive=str(folder / "archive"), out=str(folder / "m.parquet"), workers=0))
    init(Init(out=str(folder / "bundle"), preset="tiny"))
    return folder


def command(job: Path, out: Path, *more: str) -> list[str]:
    flags = ["--manifest", str(job / "m.parquet"), "--bundle", str(job / "bundle"), "--out", str(out)]
    every = ["--shard-spans", str(SHARD), "--sink.every", "0.5"]
    return [sys.executable, "-m", "anyecg_ray", "backfill", *flags, *every, *more]


def start(job: Path, out: Path, *more: str) -> "subprocess.Popen[str]":
    pipe = subprocess.PIPE
    return subprocess.Popen(command(job, out, *more), stdout=pipe, stderr=pipe, text=True, start_new_session=True)


def parts(out: Path) -> int:
    return len(list(out.glob("staging/*/*/part-*.parquet")))


def stopped(job, out, how, after, *more, later=0.0):
    """Start, wait for so many more staged shards and a moment, stop; returns exit code, words and seconds."""
    before, process = parts(out), start(job, out, *more)
    deadline = time.monotonic() + 120
    while parts(out) < before + after and time.monotonic() < deadline:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    time.sleep(later)
    told = time.monotonic()
    if how == signal.SIGKILL:  # the driver and all that it started: the machine is gone
        os.killpg(process.pid, how)
        subprocess.run(["pkill", "-KILL", "-s", str(process.pid)], check=False)
    else:
        process.send_signal(how)
    shown, said = process.communicate(timeout=60)
    took = time.monotonic() - told
    assert PLANTED not in shown + said
    return process.returncode, said, took


def finish(job, out, *more):
    shown, said = (process := start(job, out, *more)).communicate(timeout=200)
    assert process.returncode == 0, said
    assert PLANTED not in shown + said
    return shown


def check(place):
    """Every key once; returns the rows without what differs from run to run."""
    rows = place.rows()
    assert len(rows) == SPANS * 5
    assert not rows.duplicated(["span_id", "indicator", "model_version"]).any()
    staged = pd.read_parquet(Path(place.out) / "staging")
    assert staged.span_id.is_unique
    assert len(staged) == SPANS
    rows = rows.sort_values(["span_id", "indicator"]).reset_index(drop=True)
    return rows[["span_id", "indicator", "status", "probability", "n_windows", "ecg_time", "model_version"]]


@pytest.fixture(scope="module")
def undisturbed(job, request):
    place = places.made("parquet", str(job / "undisturbed"), request)
    finish(job, Path(place.out))
    return check(place)


def same(rows, undisturbed):
    pd.testing.assert_frame_equal(rows, undisturbed, check_dtype=False, atol=1e-6)


def killed_and_finished(kind, kills, job, undisturbed, tmp_path, request):
    place, chance = places.made(kind, str(tmp_path / "out"), request), random.Random(kind)
    out, flags = Path(place.out), place.flags()
    for _ in range(kills):
        stopped(job, out, signal.SIGKILL, chance.randint(1, 5), *flags, later=chance.uniform(0, 0.07))
    assert 0 < parts(out) < SPANS / SHARD
    assert "shards are done, going on" in finish(job, out, *flags)
    same(check(place), undisturbed)
    assert "nothing was left to score" in finish(job, out, *flags)
    same(check(place), undisturbed)


def test_killed_and_finished(job, undisturbed, tmp_path, request):
    killed_and_finished("parquet", 1, job, undisturbed, tmp_path, request)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", places.KINDS)
def test_killed_ten_times_and_finished(kind, job, undisturbed, tmp_path, request):
    killed_and_finished(kind, 10, job, undisturbed, tmp_path, request)


@pytest.mark.slow
@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted(job, undisturbed, tmp_path, request, how, code):
    place = places.made("parquet", str(tmp_path / "out"), request)
    out = Path(place.out)
    got, said, took = stopped(job, out, how, 2)
    assert got == code, said
    assert took < 30
    assert (
        said.strip().splitlines()[-1].endswith("; nothing is half done, and the same command goes on with what is left")
    )
    assert "Traceback" not in said
    delivered = len(list(out.glob("ecg_lab_estimate/*/part-*.parquet")))
    assert delivered == parts(out)  # what was scored is in the warehouse
    finish(job, out)
    same(check(place), undisturbed)


@pytest.mark.slow
def test_a_postgres_restarted_in_the_middle(job, undisturbed, tmp_path, request, postgres):
    place = places.made("postgres", str(tmp_path / "out"), request)
    out = Path(place.out)
    process = start(job, out, *place.flags())
    deadline = time.monotonic() + 120
    while parts(out) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    postgres.stop()
    at = parts(out)
    postgres.start_in(3).join()
    shown, said = process.communicate(timeout=200)
    assert process.returncode == 0, said
    assert 0 < at < SPANS / SHARD
    assert PLANTED not in shown + said
    same(check(place), undisturbed)


@pytest.mark.slow
def test_two_drivers_at_once(job, undisturbed, tmp_path, request):
    place = places.made("parquet", str(tmp_path / "out"), request)
    out = Path(place.out)
    both = [start(job, out), start(job, out)]
    said = [p.communicate(timeout=200)[1] for p in both]
    codes = [p.returncode for p in both]
    assert 0 in codes, said
    if codes != [0, 0]:
        refusal = said[0] if codes[1] == 0 else said[1]
        assert "another back-fill" in refusal
        assert refusal.count("\n") == 1
    same(check(place), undisturbed)

"""The benchmark runs and writes what it promises; how fast anything is, is not for a test to say."""

import json
import os
import subprocess
import time
from importlib import metadata
from importlib.metadata import PackageNotFoundError

import numpy as np
import psutil
import pyarrow as pa
import pytest
import wfdb

from anyecg_ray import bench, bench_growth, bench_marks, bench_stages, bench_table, resource_usage
from anyecg_ray.bench_setup import Setup
from anyecg_ray.cli import main
from anyecg_ray.config import InputError
from anyecg_ray.model import load
from anyecg_ray.weights import Init, init


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    uri = str(tmp_path_factory.mktemp("b"))
    init(Init(out=uri, preset="tiny"))
    return uri


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(bench_stages, "STAGE_S", 0.1)


def comes_to_be(pid, stopped):
    """Whether it is stopped, or is not: a signal takes a moment. One that has ended is not."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        found = psutil.pid_exists(pid) and psutil.Process(pid).status() == psutil.STATUS_STOPPED
        if found == stopped:
            return True
        time.sleep(0.01)
    return False


@pytest.mark.parametrize(
    ("what", "keys"),
    [
        ("model", {"model_windows_per_s", "model_start_s", "float32.model_windows_per_s", "bfloat16.computed_by"}),
        ("preprocess", {"preprocess_ms_per_lead_window", "published_over_filters"}),
        ("read", {"fetch_mb_per_s", "decode_spans_per_s", "packed_over_plain", "fetch_over_bare_loop"}),
    ],
)
def test_a_stage_alone(what, keys, bundle, data, capsys):
    archive = str(data / "cinc2021" / "training" / "georgia")
    assert main(["bench", what, "--archive", archive, "--bundle", bundle]) == 0
    shown = capsys.readouterr().out
    assert all(key in shown for key in keys)


def test_score_writes_the_figures_that_others_read(bundle, data, tmp_path, monkeypatch):
    monkeypatch.setattr(bench_marks, "EVERY_S", 1.0)
    archive = str(data / "cinc2021" / "training" / "georgia")
    out = tmp_path / "bench.json"
    flags = ["--windows", "3000", "--published-batches", "[4]", "--json", str(out), "--bundle", bundle]
    assert main(["bench", "score", "--archive", archive, *flags]) == 0
    told = json.loads(out.read_text())
    for key in ("model_windows_per_s", "end_to_end_windows_per_s", "published_windows_per_s"):
        assert told[key] > 0
    ratio = told["end_to_end_windows_per_s"] / told["model_windows_per_s"]
    assert told["end_to_end_over_model"] == pytest.approx(ratio)
    ratio = told["end_to_end_windows_per_s"] / told["published_windows_per_s"]
    assert told["end_to_end_over_published"] == pytest.approx(ratio)
    assert 2500 < told["end_to_end_windows"] < 3500
    assert told["machine"]["cores"] >= 1
    assert 0 < told["driver_peak_mb"] < told["all_peak_mb"]
    assert told["model_in_turns"]
    assert told["model_windows_per_s"] == pytest.approx(sum(told["model_in_turns"]) / len(told["model_in_turns"]))
    assert all(0 <= share <= 1 for share in told["over_time"]["cpu"])
    assert sorted(told["over_time"]["seconds"]) == told["over_time"]["seconds"] != []
    assert all(comes_to_be(p.pid, stopped=False) for p in psutil.Process().children(recursive=True))


@pytest.mark.slow
def test_what_exactly_once_costs(bundle, data, tmp_path):
    archive = str(data / "cinc2021" / "training" / "georgia")
    out = tmp_path / "bench.json"
    flags = [
        "--windows",
        "2000",
        "--sinks",
        "parquet",
        "--shards",
        "50",
        "--finished",
        "2000",
        "--json",
        str(out),
        "--bundle",
        bundle,
    ]
    assert main(["bench", "backfill", "--archive", archive, *flags]) == 0
    told = json.loads(out.read_text())
    bare = (told["bare_before_windows_per_s"] + told["bare_after_windows_per_s"]) / 2
    assert told["parquet_over_bare"] == pytest.approx(told["parquet_windows_per_s"] / bare)
    assert told["parquet_rows_per_s"] > 0
    assert told["50_shards"]["resume_s"] > 0
    assert told["finished"]["spans"] == 2000
    assert told["finished"]["backfill_peak_mb"] > told["finished"]["status_peak_mb"] > 0


def test_the_pipelines_clock_stands_still_while_another_has_its_turn(monkeypatch):
    monkeypatch.setattr(bench_marks, "EVERY_S", 0.0)
    # a process called raylet, as Ray's is, that counts for as long as it may run
    child = subprocess.Popen(["bash", "-c", "exec -a raylet sleep 60"])
    seen = []

    def turn():
        seen.append(comes_to_be(child.pid, stopped=True))
        time.sleep(0.3)

    monkeypatch.setattr(psutil.Process, "name", lambda self: "raylet" if self.pid == child.pid else "other")
    marks = bench_marks.Marks(turn)
    block = pa.table({"values": pa.array([[[0.5]]], pa.list_(pa.list_(pa.float32())))})
    began = time.perf_counter()
    for _ in marks.watch([block] * 4):
        assert comes_to_be(child.pid, stopped=False)
    child.kill()
    child.wait()
    assert seen == [True] * 4
    assert marks.windows == 4
    assert time.perf_counter() - began - (marks.now() - marks.started) >= 1.2


def test_a_ray_of_somebody_elses_is_not_made_to_stand_still(monkeypatch):
    monkeypatch.setattr(bench_marks, "EVERY_S", 0.0)
    monkeypatch.setattr(psutil.Process, "children", lambda *_, **__: [])
    marks = bench_marks.Marks(lambda: pytest.fail("its turn came beside a pipeline at work"))
    block = pa.table({"values": pa.array([[[0.5]]], pa.list_(pa.list_(pa.float32())))})
    assert len(list(marks.watch([block] * 4))) == 4


def samples_come(use, more):
    """A busy machine samples later."""
    wanted, until = len(use.over_time["cpu"]) + more, time.monotonic() + 30
    while len(use.over_time["cpu"]) < wanted:
        assert time.monotonic() < until
        time.sleep(0.02)


def test_what_is_left_out_is_not_sampled(monkeypatch):
    monkeypatch.setattr(resource_usage, "EVERY_S", 0.05)
    with resource_usage.sampled() as use:
        samples_come(use, 1)
        before = len(use.over_time["cpu"])
        use.leave_out(lambda: time.sleep(0.5))()
        assert len(use.over_time["cpu"]) - before <= 1
        samples_come(use, 2)
    assert 0 <= use.cpu_share <= 1
    assert use.peak("all_mb") >= use.peak("driver_mb") > 10


def test_gpus_are_sampled_where_there_is_the_tool(monkeypatch, tmp_path):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho '35, 1000'; echo '80, 500'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(resource_usage, "EVERY_S", 0.05)
    with resource_usage.sampled() as use:
        samples_come(use, 2)
    assert use.gpu_share == 0.8
    assert use.peak("gpu_mb") == pytest.approx(524.288)
    tool.write_text("#!/bin/sh\necho 'N/A'\n")
    with resource_usage.sampled() as use:
        samples_come(use, 2)
    assert use.gpu_share == use.peak("gpu_mb") == 0
    assert set(use.over_time["gpu"]) == {None}  # JSON has no NaN


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--postgres", "postgresql://u:secret@h/db"], "setting postgres: holds a password"),
        (["--json", "/proc/nowhere/bench.json"], "/proc/nowhere/bench.json"),
    ],
)
def test_what_cannot_be_used_is_told_before_anything_is_measured(flags, told, bundle, data, capsys, monkeypatch):
    monkeypatch.setattr(bench, "_MEASURES", {"model": lambda _: pytest.fail("it was measured")})
    assert main(["bench", "model", "--archive", str(data / "mitdb"), "--bundle", bundle, *flags]) == 2
    said = capsys.readouterr().err
    assert told in said
    assert "secret" not in said
    assert said.count("\n") == 1


def test_an_archive_without_windows_for_the_model(bundle, tmp_path, capsys):
    wfdb.wrsamp("r", 500, ["mV"], ["V9"], np.zeros((6000, 1)), fmt=["16"], write_dir=str(tmp_path))
    assert main(["bench", "preprocess", "--archive", str(tmp_path), "--bundle", bundle]) == 2
    assert "none of its first spans has a window for this model" in capsys.readouterr().err


def test_an_archive_that_the_published_way_cannot_read(bundle, data, tmp_path):
    """MIT-BIH is of 360 Hz."""
    settings = bench.Bench(what="score", archive=str(data / "mitdb"), bundle=bundle)
    assert bench._published(Setup(settings, str(tmp_path))) == {}


def test_figures_without_openvino(monkeypatch):
    def absent(name):
        if name == "openvino":
            raise PackageNotFoundError(name)
        return "1"

    monkeypatch.setattr(metadata, "version", absent)
    assert bench_table.machine()["versions"]["openvino"] == ""


def test_growth_is_measured_with_the_smallest_network(tmp_path):
    setup = Setup(bench.Bench(what="growth"), str(tmp_path))
    assert setup.bundle.card.model_id == "untrained-tiny"


def test_an_unknown_stage(capsys):
    assert main(["bench", "everything"]) == 2
    assert "score" in capsys.readouterr().err


@pytest.mark.parametrize("told", ["meters:1", "spans", "spans:", "leads:0", "seconds:1:x"])
def test_what_cannot_grow_is_refused(told):
    with pytest.raises(InputError, match="setting grow"):
        bench_growth.parsed(told)


def test_what_grows_has_the_size_that_was_asked_for(tmp_path):
    assert bench_growth.parsed("seconds:25:600") == ("seconds", [25, 600])
    record = wfdb.rdrecord(f"{bench_growth.archive('seconds', 25, tmp_path / 'a')}/r")
    assert record.p_signal.shape == (12_500, 12)
    assert record.p_signal[10_000:, 1].tolist() == record.p_signal[:2_500, 1].tolist()
    assert load(bench_growth.bundle("indicators", 108, tmp_path / "i")).card.columns == 108
    assert load(bench_growth.bundle("leads", 3, tmp_path / "l")).recipe.leads == ("I", "II", "III")


@pytest.mark.slow
def test_growth_measures_every_size(data, bundle, capsys):
    archive = str(data / "cinc2021" / "training" / "georgia")
    flags = ["--archive", archive, "--bundle", bundle, "--windows", "2000"]
    grow = [flag for told in ("spans:1500", "indicators:3", "workers:2") for flag in ("--grow", told)]
    assert main(["bench", "growth", *grow, *flags]) == 0
    shown = capsys.readouterr().out
    assert "1500_spans.end_to_end_windows_per_s" in shown
    assert "3_indicators.all_peak_mb" in shown
    assert "2_workers.cpu_share" in shown

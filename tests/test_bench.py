"""The benchmark runs and writes what it promises; how fast anything is, is not for a test to say."""

import json

import pytest
import wfdb

from anyecg_ray import bench, bench_growth
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
    monkeypatch.setattr(bench, "STAGE_S", 0.1)


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


def test_score_writes_the_figures_that_others_read(bundle, data, tmp_path):
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

"""One row for everything that went in, whatever it was, and the same again however often it is asked for."""

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from bad_records import copy_good, write_broken

from anyecg_ray import model, schema
from anyecg_ray.backfill import Backfill, backfill, plan
from anyecg_ray.cli import main
from anyecg_ray.config import InputError, JobError, load
from anyecg_ray.manifest import Manifest, manifest, open_manifest
from anyecg_ray.predict import Shard
from anyecg_ray.schema import Status
from anyecg_ray.scoring import finished
from anyecg_ray.status import ShowStatus, status
from anyecg_ray.weights import Init, init


@pytest.fixture(scope="module")
def archive(data, tmp_path_factory):
    """240 good ECGs and one of every broken kind: 17 in 257."""
    folder = tmp_path_factory.mktemp("archive")
    copy_good(data, folder, 20)
    write_broken(folder / "broken")
    return folder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    uri = str(tmp_path_factory.mktemp("bundle"))
    init(Init(out=uri, preset="tiny", indicators=["potassium_high", "calcium_value"]))
    return uri


@pytest.fixture(scope="module")
def job(archive, bundle, tmp_path_factory):
    """Settings of a back-fill whose manifest stands and whose output does not."""
    folder = tmp_path_factory.mktemp("job")
    manifest(Manifest(archive=str(archive), out=str(folder / "manifest.parquet"), workers=0))
    return Backfill(manifest=str(folder / "manifest.parquet"), bundle=bundle, out=str(folder / "out"), shard_spans=50)


@pytest.fixture(scope="module")
def scored(job, on_ray):
    return backfill(job)


def table(job):
    return pd.read_parquet(f"{job.out}/ecg_lab_estimate")


def staging(job):
    return pd.read_parquet(f"{job.out}/staging/untrained-tiny")


def test_counts_add_up_and_all_good_records_are_scored(job, scored):
    assert scored.total() == 257 == open_manifest(job.manifest).rows
    rows = staging(job).set_index("record_id")
    assert rows.index.is_unique
    good = rows[~rows.index.str.startswith("broken/")]
    assert len(good) == 240
    assert set(good.status) == {"ok"}
    assert Counter(rows.status) == scored


def test_each_broken_record_has_its_status_and_a_reason(job, scored, tmp_path):
    rows = staging(job).set_index("record_id")
    expected = {f"broken/{name}": status for name, status in write_broken(tmp_path).items()}
    broken = rows[rows.index.str.startswith("broken/")]
    assert broken.status.to_dict() == expected
    assert broken[broken.status != "ok"].status_detail.str.len().gt(5).all()


def test_the_table_has_a_row_per_span_and_indicator(job, scored):
    file = next(iter(pq.ParquetDataset(f"{job.out}/ecg_lab_estimate").files))
    assert pq.read_schema(file).equals(schema.ECG_LAB_ESTIMATE)
    rows = table(job)
    assert len(rows) == 257 * 2
    assert not rows.duplicated(["span_id", "indicator", "model_version"]).any()
    ok = rows.status == "ok"
    p, v = rows[ok & (rows.indicator == "potassium_high")], rows[ok & (rows.indicator == "calcium_value")]
    assert p.probability.between(0, 1).all()
    assert p.value.isna().all()
    assert v.probability.isna().all()
    assert (v.lower < v.value).all()
    assert (v.value < v.upper).all()
    assert rows[~ok][["probability", "value", "lower", "upper"]].isna().all().all()
    assert set(p.loinc) == {"2823-3"}
    assert (rows[ok].n_windows == 1).all()


def test_what_the_run_wrote_down(job, scored):
    (file,) = Path(job.out, "runs").iterdir()
    told = json.loads(file.read_text())
    card = model.load_card(job.bundle)
    assert told["spans_by_status"] == dict(scored)
    assert told["windows"] == scored["ok"]
    assert told["model"]["weights_sha256"] == card.weights_sha256
    assert told["preprocess_fingerprint"] == card.preprocess_fingerprint
    assert told["settings"]["bundle"] == job.bundle
    by = {" ".join(who.split()[:3]) for who in told["computed_by"]}  # a note of why it is not faster may follow
    assert by <= {f"{b} cpu {p}" for b in ("openvino", "torch") for p in ("int8", "bfloat16", "float32")}


def test_a_second_run_finds_nothing_to_do(job, scored, capsys):
    before = table(job)
    assert backfill(job) == scored
    assert "nothing was left to score" in capsys.readouterr().out
    pd.testing.assert_frame_equal(table(job), before)


def test_a_lost_shard_alone_is_scored_again(job, scored, tmp_path, capsys):
    before = table(job)
    (lost, *_) = sorted(Path(job.out, "staging").rglob("part-*"))
    lost.unlink()
    assert backfill(job) == scored
    assert "5 of 6 shards are done" in capsys.readouterr().out
    after = table(job)
    assert (after.run_id != before.run_id).sum() == 50 * 2
    same = [c for c in before if c not in ("run_id", "estimated_at")]
    pd.testing.assert_frame_equal(after[same], before[same])


def test_granularity_window_publishes_each_window(data, bundle, tmp_path, on_ray):
    for name in ("100s", "119s"):
        for end in (".hea", ".dat"):
            shutil.copy(data / "mitdb" / "records" / f"{name}{end}", tmp_path)
    manifest(Manifest(archive=str(tmp_path), out=str(tmp_path / "m.parquet"), workers=0))
    settings = {"manifest": str(tmp_path / "m.parquet"), "bundle": bundle}
    backfill(Backfill(**settings, out=str(tmp_path / "spans")))
    backfill(Backfill(**settings, out=str(tmp_path / "windows"), granularity="window"))
    spans, windows = (pd.read_parquet(tmp_path / o / "ecg_lab_estimate") for o in ("spans", "windows"))
    assert spans.window_start.isna().all()
    used = windows[(windows.indicator == "potassium_high") & windows.probability.notna()]
    assert not windows.duplicated(["span_id", "indicator", "window_start"]).any()
    assert len(used) > 100
    # a span's logit is the mean of its windows'
    logit = np.log(used.probability / (1 - used.probability)).groupby(used.span_id).mean()
    whole = spans[(spans.indicator == "potassium_high") & (spans.status == "ok")].set_index("span_id")
    np.testing.assert_allclose(1 / (1 + np.exp(-logit)), whole.probability[logit.index], atol=1e-5)
    assert (whole.n_windows[logit.index] == used.groupby("span_id").size()).all()
    again = Backfill(**settings, out=str(tmp_path / "spans"), granularity="window")
    with pytest.raises(InputError, match="granularity"):
        backfill(again)


def test_an_output_of_another_model_or_manifest(job, scored, archive, bundle, tmp_path, on_ray):
    init(Init(out=str(tmp_path / "other"), preset="tiny", seed=1))
    other = job.model_copy(update={"bundle": str(tmp_path / "other"), "out": str(tmp_path / "o")})
    assert backfill(other) == scored  # a model of its own stands beside the others
    with pytest.raises(InputError, match="a back-fill whose shard_spans differs;"):
        backfill(job.model_copy(update={"shard_spans": 51}))
    card = model.load(bundle).card
    strict = [i.model_copy(update={"threshold": 0.9}) for i in card.indicators]
    shutil.copytree(bundle, tmp_path / "strict")
    model.save_card(card.model_copy(update={"indicators": strict}), str(tmp_path / "strict"))
    with pytest.raises(InputError, match="whose indicators_and_calibration differs"):
        backfill(job.model_copy(update={"bundle": str(tmp_path / "strict")}))
    assert main(["publish", "--out", job.out, "--bundle", str(tmp_path / "strict")]) == 2
    manifest(Manifest(archive=str(archive / "broken"), out=str(tmp_path / "m.parquet"), workers=0))
    with pytest.raises(InputError, match="manifest"):
        backfill(job.model_copy(update={"manifest": str(tmp_path / "m.parquet")}))


def test_new_records_alone_are_scored_after_an_update(data, bundle, tmp_path, on_ray, capsys):
    copy_good(data, tmp_path / "archive", 1)
    index = Manifest(archive=str(tmp_path / "archive"), out=str(tmp_path / "m.parquet"), workers=0)
    manifest(index)
    settings = Backfill(manifest=index.out, bundle=bundle, out=str(tmp_path / "out"))
    backfill(settings)
    before = table(settings)
    copy_good(data, tmp_path / "archive" / "new", 1)
    manifest(index.model_copy(update={"update": True}))
    assert backfill(settings).total() == 24
    assert "1 of 2 shards are done" in capsys.readouterr().out
    assert set(before.run_id) < set(table(settings).run_id)


def test_too_many_errors_fail_the_job(bundle, tmp_path, on_ray):
    write_broken(tmp_path / "archive")
    manifest(Manifest(archive=str(tmp_path / "archive"), out=str(tmp_path / "m.parquet"), workers=0))
    settings = Backfill(
        manifest=str(tmp_path / "m.parquet"), bundle=bundle, out=str(tmp_path / "o"), max_error_rate=0.2
    )
    with pytest.raises(JobError, match=r"5 of 17 spans could not be scored \(2 unreadable, .*--max-error-rate"):
        backfill(settings)
    assert len(table(settings)) == 17 * 2  # and all that could be had is there
    (told,) = status(ShowStatus(out=settings.out))
    assert told["state"] == "stopped"
    assert "--max-error-rate" in told["last_error"]


def test_what_ended_a_run_is_told_though_its_manifest_is_gone(job, scored, tmp_path):
    """The run's record is written at the end, and reads nothing from a storage that may be what failed."""
    moved = tmp_path / "m.parquet"
    shutil.copy(job.manifest, moved)
    settings = job.model_copy(update={"manifest": str(moved), "out": str(tmp_path / "out")})

    def watch(blocks):
        for _ in blocks:
            moved.unlink()
            raise JobError("stopped by its watcher")
        yield

    with pytest.raises(JobError, match="stopped by its watcher"):
        backfill(settings, watch)
    (file,) = Path(settings.out, "runs").iterdir()
    assert json.loads(file.read_text())["manifest"]["rows"] == 257


def test_more_failures_than_stop_a_job_can_be_tried_again(bundle, tmp_path, on_ray, monkeypatch):
    write_broken(tmp_path / "archive")
    manifest(Manifest(archive=str(tmp_path / "archive"), out=str(tmp_path / "m.parquet"), workers=0))
    settings = Backfill(manifest=str(tmp_path / "m.parquet"), bundle=bundle, out=str(tmp_path / "o"), shard_spans=4)
    before = backfill(settings)
    monkeypatch.setattr("anyecg_ray.backfill.STOP_AFTER", 1)
    assert backfill(settings.model_copy(update={"retry_status": [Status.UNREADABLE]})) == before


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"manifest": "nowhere.parquet"}, "nowhere.parquet"),
        ({"bundle": "nowhere"}, "nowhere: not a bundle"),
        ({"out": "/proc/out"}, "cannot write to /proc/out"),
        ({"archive": "/nowhere"}, "/nowhere: no such archive"),
        ({"window.after": "60"}, "setting window: is around the index times of a cohort; give --cohort too"),
    ],
)
def test_wrong_locations_are_told_in_one_line(job, change, told, capsys):
    arguments = {"manifest": job.manifest, "bundle": job.bundle, "out": f"{job.out}-other"} | change
    assert main(["backfill", *[f"--{k}={v}" for k, v in arguments.items()]]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


def test_a_typo_in_a_setting(job, capsys):
    assert main(["backfill", "--manifst", job.manifest]) == 2
    assert "did you mean --manifest?" in capsys.readouterr().err


def test_plan_covers_every_row_once(monkeypatch):
    groups = iter([np.full(2500, 10.0), np.array([10.0]), np.full(1000, 0.0)])
    monkeypatch.setattr("anyecg_ray.backfill.span_seconds", lambda uri: groups)
    assert list(plan("m.parquet", 1000)) == [
        Shard(*s) for s in [(0, 0, 1000), (0, 1000, 1000), (0, 2000, 500), (1, 0, 1), (2, 0, 1000)]
    ]


def test_long_spans_make_small_shards(monkeypatch):
    hour, day = 3600.0, 86_400.0
    groups = iter([np.array([hour] * 30 + [2 * day, day, 10.0, 10.0])])
    monkeypatch.setattr("anyecg_ray.backfill.span_seconds", lambda uri: groups)
    assert [(s.offset, s.rows) for s in plan("m.parquet", 1000)] == [(0, 27), (27, 3), (30, 1), (31, 3)]


def test_a_shard_is_finished_with_its_last_row():
    import pyarrow as pa

    todo = [Shard(0, 0, 3), Shard(0, 3, 2)]
    blocks = [pa.table({"shard": s, "span_id": list(n)}) for s, n in (([0, 1], "ad"), ([1], "e"), ([0, 0], "bc"))]
    got = [(shard, rows.column("span_id").to_pylist()) for shard, rows in finished(todo, iter(blocks))]
    assert got == [(todo[1], ["d", "e"]), (todo[0], ["a", "b", "c"])]
    with pytest.raises(JobError, match="1 shards came out of the pipeline incomplete"):
        list(finished(todo, iter(blocks[:2])))
    twice = [blocks[0], pa.table({"shard": [0, 0], "span_id": ["a", "b"]})]
    with pytest.raises(JobError, match="a span came out of the pipeline twice"):
        list(finished(todo, iter(twice)))


def test_statuses_that_count_as_errors_are_not_those_of_a_poor_signal():
    from anyecg_ray.backfill import ERRORS

    assert not set(ERRORS) & {Status.OK, Status.NOISY, Status.FLAT, Status.TOO_SHORT, Status.CLIPPED}


def test_a_status_may_be_written_as_the_help_shows_it():
    asked = ["--manifest", "m", "--bundle", "b", "--out", "o", "--retry-status", "TRANSIENT", "--retry-status", "flat"]
    assert load(Backfill, "backfill", asked).retry_status == [Status.TRANSIENT, Status.FLAT]

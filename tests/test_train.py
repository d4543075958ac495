"""Training finds what was planted, whoever dies on the way, and fits nothing on test patients."""

import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import make_segments
import numpy as np
import psutil
import pyarrow as pa
import pytest
import torch
from tensorboard_events import scalars

from anyecg_ray import metrics, model, segments, train_worker
from anyecg_ray import train as train_module
from anyecg_ray.backends import Compute, Estimator
from anyecg_ray.config import InputError
from anyecg_ray.train import Train, train
from anyecg_ray.train_loop import Learning
from anyecg_ray.weights import Init, init

LEARNING = Learning(epochs=4, lr=0.004, batch=16)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("segments")
    make_segments.write(folder)
    return folder


def settings(store, out, **more):
    return Train(**({"segments": str(store), "out": str(out), "preset": "tiny", "learning": LEARNING} | more))


def scores(bundle, store, split="test"):
    """AUROC of potassium_high, of the control, and the error of the value, on a split."""
    estimator = Estimator(bundle, Compute(precision="float32"))
    keys = ["potassium_high", "control_a_high", "potassium_value"]
    rows = list(segments.batches(str(store), split))
    estimates = np.concatenate([estimator.estimate(segments.windows(r, 1)) for r in rows])
    y = np.concatenate([segments.labels(r, keys) for r in rows])
    told = ~np.isnan(y[:, 1])
    control = metrics.auroc(estimates[told, 1], y[told, 1] > 0)
    return metrics.auroc(estimates[:, 0], y[:, 0] > 0), control, float(np.abs(estimates[:, 2] - y[:, 2]).mean())


@pytest.fixture(scope="module")
def trained(store, tmp_path_factory, on_ray):
    out = tmp_path_factory.mktemp("bundle")
    return train(settings(store, out)), out


def test_it_finds_what_was_planted_and_nothing_else(trained, store):
    bundle, out = trained
    high, control, error = scores(bundle, store)
    assert high > 0.85
    assert 0.3 < control < 0.7
    assert error < 0.7
    again = model.load(str(out))
    assert again.card.model_dump_json() == bundle.card.model_dump_json()
    assert again.card.trained
    assert again.card.training["segments_fingerprint"] == "store0"


def test_thresholds_and_calibration_come_from_validation(trained, store):
    bundle, _ = trained
    high = bundle.card.indicators[0]
    estimator = Estimator(bundle, Compute(precision="float32"))
    rows = list(segments.batches(str(store), "val"))
    p = np.concatenate([estimator.estimate(segments.windows(r, 1)) for r in rows])[:, 0]
    y = np.concatenate([segments.labels(r, ["potassium_high"]) for r in rows])[:, 0] > 0
    from anyecg_ray import calibrate

    assert high.threshold == pytest.approx(calibrate.threshold(p, y), abs=0.02)
    assert high.calibration is not None
    value = bundle.card.indicators[2]
    train_values = np.concatenate(
        [segments.labels(r, ["potassium_value"]) for r in segments.batches(str(store), "train")]
    )
    assert value.offset == pytest.approx(train_values.mean(), abs=1e-3)


def test_an_encounter_of_nobody_known_is_no_patient_of_that_name():
    columns = {"encounter_id": ["7", "8", None], "patient_id": [None, "7", None], "record_id": ["a", "b", "7"]}
    assert len(set(train_worker._owners(pa.table(columns), list(columns)))) == 3


def test_calibration_knows_whose_the_validation_windows_are(store):
    job = SimpleNamespace(segments=str(store))
    ids = [i for rows in segments.batches(str(store), "val") for i in rows["patient_id"].to_pylist()]
    expected = np.unique(ids, return_inverse=True)[1]
    np.testing.assert_array_equal(train_worker._patients(job, 0, 1), expected)
    columns = ["encounter_id", "patient_id", "record_id"]
    shares = [
        [train_worker._owners(rows, columns) for rows in train_worker._share(job, columns, rank, 2)]
        for rank in range(2)
    ]
    assert [i for pair in zip(*shares, strict=True) for share in pair for i in share] == ids  # 80 windows to a part
    logits, labels = np.linspace(-2, 2, len(ids)), (np.arange(len(ids)) % 3 == 0).astype(np.float32)
    high = train_module._fitted(make_segments.HIGH, logits, labels, expected)
    assert high.calibration.method == "platt"  # of 160 windows, 40 patients


def test_curves_are_there_for_tensorboard(trained):
    _, out = trained
    told = scalars(out / "training" / "tensorboard")
    assert set(told) >= {"loss", "score", "samples_per_s", "lr", "auroc/potassium_high"}
    assert [step for step, _ in told["loss"]] == list(range(len(told["loss"])))
    assert told["loss"][-1][1] < told["loss"][0][1]


def test_the_same_command_has_nothing_left_to_learn(trained, store, capsys):
    bundle, out = trained
    started = time.monotonic()
    again = train(settings(store, out))
    assert again.card.weights_sha256 == bundle.card.weights_sha256
    assert time.monotonic() - started < 120


@pytest.mark.slow
def test_the_same_seed_makes_the_same_model(trained, store, tmp_path):
    again = train(settings(store, tmp_path))
    assert again.card.weights_sha256 == trained[0].card.weights_sha256
    assert again.card.indicators == trained[0].card.indicators


@pytest.mark.slow
def test_two_workers_agree_with_one(trained, store, tmp_path, on_ray):
    bundle = train(settings(store, tmp_path, workers=2, cpus_per_worker=0.5))
    assert scores(bundle, store)[0] == pytest.approx(scores(trained[0], store)[0], abs=0.08)


@pytest.mark.slow
def test_a_probe_leaves_the_body_as_it_was(trained, store, tmp_path, on_ray):
    start, out = trained
    probed = train(settings(store, tmp_path, init=str(out), train="head", learning=Learning(epochs=1)))
    after = probed.state()
    for name, tensor in start.state().items():
        same = torch.equal(tensor, after[name])
        assert same != name.startswith("dense."), name


def test_starting_from_what_does_not_fit(store, tmp_path):
    init(Init(out=str(tmp_path / "v5"), leads=["V5"]))
    with pytest.raises(InputError, match="differs in: leads"):
        train(settings(store, tmp_path / "x", init=str(tmp_path / "v5")))
    with pytest.raises(InputError, match="not a bundle"):
        train(settings(store, tmp_path / "x", init=str(tmp_path / "nothing")))
    with pytest.raises(InputError, match="no finished segments"):
        train(settings(tmp_path / "nowhere", tmp_path / "x"))


def start(store, out):
    flags = ["--segments", str(store), "--out", str(out), "--preset", "tiny", "--learning.epochs", "5"]
    command = [sys.executable, "-m", "anyecg_ray", "train", *flags, "--learning.lr", "0.004", "--learning.batch", "16"]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def checkpoints(out):
    return list((out / "training").glob("run-*/checkpoint_*/state.pt"))


def until(process, condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.1)


def epochs(text):
    return [int(line.split()[1].rstrip(":")) for line in text.splitlines() if line.startswith("epoch ")]


@pytest.mark.slow
def test_a_worker_that_is_killed_is_replaced_and_the_curve_goes_on(store, tmp_path):
    process = start(store, tmp_path)
    until(process, lambda: checkpoints(tmp_path))
    workers = [
        p for p in psutil.Process(process.pid).children(recursive=True) if "RayTrainWorker" in " ".join(p.cmdline())
    ]
    workers[0].send_signal(signal.SIGKILL)
    text, _ = process.communicate(timeout=250)
    assert process.returncode == 0, text
    assert epochs(text)[-1] == 4
    assert epochs(text).count(0) == 1  # it did not begin anew
    assert model.load(str(tmp_path)).card.trained


@pytest.mark.slow
def test_a_driver_that_is_killed_goes_on_by_the_same_command(store, tmp_path):
    process = start(store, tmp_path)
    until(process, lambda: len(checkpoints(tmp_path)) >= 2)
    os.killpg(process.pid, signal.SIGKILL)
    subprocess.run(["pkill", "-KILL", "-s", str(process.pid)], check=False)
    process.communicate()
    again = start(store, tmp_path)
    text, _ = again.communicate(timeout=250)
    assert again.returncode == 0, text
    assert epochs(text)[0] >= 1
    assert epochs(text)[-1] == 4
    assert json.loads((tmp_path / "card.json").read_text())["training"]["settings"]["learning"]["epochs"] == 5

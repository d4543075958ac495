"""Speed changes no ranking: every backend and precision ranks real patients as PyTorch's float32 does.

ECGFounder's full-size single-lead network, trained for six epochs on real, labelled ECGs (PTB-XL), then run each
way over the same windows. What is compared is how the ways rank them; how good the model is, is not asked here, so
training patients are among them. `pytest -m slow -s tests/test_auroc.py` prints the figures.
"""

import numpy as np
import pytest

from anyecg_ray import backends, metrics, model, split_scores
from anyecg_ray.backends import CLOSE, Compute, Estimator
from anyecg_ray.cli import main

openvino = pytest.importorskip("openvino")

TASKS = ["dx_norm", "dx_mi", "dx_sttc"]
WAYS = [("torch", "float32"), ("openvino", "float32")]
if backends._bfloat16_is_native():
    WAYS += [("torch", "bfloat16"), ("openvino", "bfloat16")]
if backends._int8_is_native():
    WAYS += [("openvino", "int8")]


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("auroc")
    tasks = [flag for task in TASKS for flag in ("--indicators", task)]
    learning = "--learning.batch 16 --learning.lr 0.001 --learning.epochs 6 --learning.patience 6"
    for line in (
        f"manifest --archive {data}/ptbxl-500 --dataset ptb-xl --out {folder}/manifest.parquet",
        f"prepare --manifest {folder}/manifest.parquet --out {folder}/segments {' '.join(tasks)}",
        f"train --segments {folder}/segments --out {folder}/bundle --preset full {learning}",
    ):
        assert main(line.split()) == 0
    return folder


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_every_way_ranks_real_patients_alike(trained):
    bundle = model.load(str(trained / "bundle"))
    assert [i.key for i in bundle.card.indicators] == TASKS
    ways = {f"{b} {p}": Estimator(bundle, Compute(backend=b, precision=p)) for b, p in WAYS}
    assert [(e.choice.backend, e.choice.precision, e.choice.stages) for e in ways.values()] == [
        (*w, None) for w in WAYS
    ]
    found = [
        split_scores.score(
            split_scores.batches(str(trained / "segments"), split, 64, bundle.card.indicators, 1),
            bundle.card.indicators, ways, None, bundle.recipe,
        )
        for split in ("train", "val", "test")
    ]  # fmt: skip
    labels = np.concatenate([f.labels for f in found])
    estimates = {way: np.concatenate([f.estimates[way] for f in found]) for way in ways}
    reference = estimates["torch float32"]
    for i, task in enumerate(TASKS):
        known = np.isfinite(labels[:, i])
        positive = labels[known, i] == 1
        right = metrics.auroc(reference[known, i], positive)
        print(f"\n{task}: {positive.sum()} of {known.sum()}, AUROC {right:.4f}")
        assert right > 0.7
        for way in ways:
            p = estimates[way][known, i]
            apart = np.abs(p - reference[known, i])
            off = metrics.auroc(p, positive) - right
            print(f"  {way}: {off:+.5f}, probabilities {apart.max():.5f} off at most, {apart.mean():.5f} on average")
            assert abs(off) < 0.002
            assert apart.mean() <= CLOSE

"""A cluster of several nodes: one is lost in the middle of a job, and others come because a job waits for them."""

import time
from collections import Counter
from pathlib import Path

import make_segments
import private_ray
import pyarrow.dataset
import pytest
from planted import naming
from ray.job_submission import JobStatus

from anyecg_ray import model
from anyecg_ray.cli import main

LINE = "python -m anyecg_ray backfill --manifest {0}/manifest.parquet --bundle {0}/bundle --out {0}/estimates"
TAIL = " --shard-spans 4 --threads 1 --predict.actors 1"


@pytest.fixture
def folder(tmp_path):
    """An archive, its manifest and a bundle."""
    lines = f"""
        synth --out {tmp_path}/archive --encounters 60 --minutes 10
        manifest --archive {tmp_path}/archive --dataset mc-med --out {tmp_path}/manifest.parquet --max-span 60
        init --out {tmp_path}/bundle --preset tiny
    """
    for line in lines.strip().splitlines():
        assert main(line.split()) == 0
    return tmp_path


def spans(folder: Path) -> int:
    return pyarrow.dataset.dataset(folder / "manifest.parquet").count_rows()


def people(folder: Path) -> set[str]:
    """Patients and visits of the archive."""
    rows = pyarrow.dataset.dataset(folder / "manifest.parquet").to_table(columns=["patient_id", "encounter_id"])
    return {name for column in rows.columns for name in column.to_pylist()}


def scored(folder: Path) -> Counter:
    """How often each span was written."""
    staging = pyarrow.dataset.dataset(folder / "estimates" / "staging")
    return Counter(staging.to_table(columns=["span_id"])["span_id"].to_pylist())


def staged(folder: Path) -> int:
    return len(list((folder / "estimates" / "staging").rglob("*.parquet")))


@pytest.mark.slow
def test_a_job_goes_on_when_a_node_is_lost(folder):
    with private_ray.cluster() as cluster:
        cluster.head("--num-cpus=0")
        workers = [cluster.worker("--num-cpus=2") for _ in range(2)]
        job = cluster.client.submit_job(entrypoint=LINE.format(folder) + TAIL)
        until(lambda: staged(folder) > 0)
        private_ray.end(workers[0])
        before = staged(folder)
        cluster.await_status(job, JobStatus.SUCCEEDED)
        until(lambda: len(cluster.alive()) == 2)
        assert not naming([cluster.folder], people(folder))
    found = scored(folder)
    assert len(found) == spans(folder)
    assert set(found.values()) == {1}
    assert before * 4 < len(found), "the job was over before the node was lost"


@pytest.mark.slow
def test_training_goes_over_nodes_that_its_workers_fill(tmp_path):
    """Nothing of a node's processors is left for reading: it must not wait for them for ever."""
    make_segments.write(tmp_path / "segments")
    line = f"python -m anyecg_ray train --segments {tmp_path}/segments --out {tmp_path}/bundle --preset tiny"
    with private_ray.cluster() as cluster:
        cluster.head("--num-cpus=1")
        cluster.worker("--num-cpus=1")
        job = cluster.client.submit_job(entrypoint=f"{line} --learning.epochs 2 --workers 2 --cpus-per-worker 1")
        cluster.await_status(job, JobStatus.SUCCEEDED)
        workers = [actor for actor in cluster.listed("actors") if actor["class_name"] == "RayTrainWorker"]
    assert len({actor["node_id"] for actor in workers}) == 2
    assert model.load(str(tmp_path / "bundle")).card.trained


@pytest.mark.slow
def test_nodes_come_for_a_job_and_go_after_it(folder):
    """Ray's autoscaler and scheduler on pretended machines; the head runs no work, as in cluster.yaml."""
    types = {
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "min_workers": 0, "max_workers": 0},
        "cpu": {"resources": {"CPU": 2}, "node_config": {}, "min_workers": 0, "max_workers": 2},
    }
    with private_ray.cluster() as cluster:
        config = private_ray.autoscaled(cluster, types)
        cluster.head("--num-cpus=0", f"--autoscaling-config={config}", **private_ray.AUTOSCALES)
        assert len(cluster.alive()) == 1
        job = cluster.client.submit_job(entrypoint=LINE.format(folder) + TAIL)
        until(lambda: len(cluster.alive()) > 1)
        cluster.await_status(job, JobStatus.SUCCEEDED)
        until(lambda: len(cluster.alive()) == 1)
        assert not naming([cluster.folder], people(folder))
    assert set(scored(folder).values()) == {1}
    assert len(scored(folder)) == spans(folder)


def until(true):
    for _ in range(600):
        if true():
            return
        time.sleep(0.2)
    raise AssertionError("waited for two minutes")

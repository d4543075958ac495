"""A cluster of several raylets on this machine: a node, a copy of the model or the disk fails in the middle.

No log of any of these runs may hold an identifier that is planted in the archive (planted.py).
"""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest
from bad_records import beats, write, write_broken
from planted import PLANTED, naming

from anyecg_ray.manifest import Manifest, manifest
from anyecg_ray.weights import Init, init

PATIENTS, EACH = 500, 4
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    folder = tmp_path_factory.mktemp("job")
    write(folder, "one", beats())
    header, signal_ = (folder / "one.hea").read_text(), folder / "one.dat"
    for patient in range(PATIENTS):
        theirs = folder / "archive" / f"{PLANTED}{patient:04d}"
        theirs.mkdir(parents=True)
        for k in range(EACH):
            (theirs / f"r{k}.hea").write_text(header.replace("one", f"r{k}"))
            os.link(signal_, theirs / f"r{k}.dat")
    write_broken(folder / "archive" / f"{PLANTED}9999")
    pattern = {"patient": rf"({PLANTED}\d+)/"}
    manifest(Manifest(archive=str(folder / "archive"), out=str(folder / "m.parquet"), workers=0, wfdb=pattern))
    init(Init(out=str(folder / "bundle"), preset="tiny", indicators=["potassium_high"]))
    return folder


def command(job, out, *more):
    flags = ["--manifest", f"{job}/m.parquet", "--bundle", f"{job}/bundle", "--out", str(out), "--shard-spans", "20"]
    return [sys.executable, "-m", "anyecg_ray", "backfill", *flags, "--sink.every", "0.5", *more]


def parts(out):
    return len(list(Path(out).glob("staging/*/*/part-*.parquet")))


def wait_for(condition, process, seconds=120):
    until = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.02)


def check(out):
    rows = pd.read_parquet(Path(out) / "ecg_lab_estimate")
    assert not rows.duplicated(["span_id", "indicator", "model_version"]).any()
    assert len(rows) == PATIENTS * EACH + 17
    assert rows[rows.status == "ok"].patient_id.nunique() >= PATIENTS
    return rows


def children(process, name):
    return [p for p in psutil.process_iter(["name", "cmdline"]) if name in " ".join(p.info["cmdline"] or [])]


@pytest.mark.slow
@pytest.mark.parametrize("staged", [0, 5])  # while it starts, and in the middle
def test_a_copy_of_the_model_dies(job, tmp_path, staged):
    out, env = tmp_path / "out", os.environ | {"PYTHONPATH": str(ROOT)}
    pipe = subprocess.PIPE
    process = subprocess.Popen(command(job, out), env=env, stdout=pipe, stderr=pipe, text=True, start_new_session=True)
    name = "MapWorker(MapBatches(Predictor"
    wait_for(lambda: parts(out) >= staged and children(process, name), process)
    killed = [p for p in children(process, name) if p.is_running()]
    for actor in killed:
        actor.kill()
    said = process.communicate(timeout=200)
    assert process.returncode == 0, said
    assert killed
    check(out)
    assert PLANTED not in "".join(said)


@pytest.mark.slow
def test_the_disk_is_full(job, tmp_path):
    """A limit on file sizes stands in for it: a write fails in the middle of a part, as on a full disk."""
    out = tmp_path / "out"
    limit = 3000  # bytes: the marks fit, a part does not

    def limited():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    code = (
        "import resource, sys\n"
        "from anyecg_ray import ledger, storage\n"
        "from anyecg_ray.cli import main\n"
        "whole, written = storage.atomic_output, []\n"
        "def full(uri):\n"
        "    written.append(uri)\n"
        "    if len(written) > 8:\n"
        f"        resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
        "    return whole(uri)\n"
        "storage.atomic_output = full\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    line = [sys.executable, "-c", code, *command(job, out)[3:]]
    first = subprocess.run(line, capture_output=True, text=True, preexec_fn=limited, timeout=200, check=False)
    assert first.returncode == 2, first
    assert "File too large" in first.stderr
    assert first.stderr.strip().splitlines()[-1].startswith("anyecg: cannot write to")
    assert "Traceback" not in first.stderr
    assert 0 < parts(out) < (PATIENTS * EACH) // 20
    second = subprocess.run(command(job, out), capture_output=True, text=True, timeout=200, check=False)
    assert second.returncode == 0, second
    check(out)
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


@pytest.mark.slow
def test_a_node_dies_in_the_middle_of_a_submitted_job(job, tmp_path, monkeypatch):
    from ray.cluster_utils import Cluster

    for name in [n for n in os.environ if n.startswith("RAY_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")  # the job's python
    out = tmp_path / "out"
    head = {"num_cpus": 0, "include_dashboard": True, "dashboard_port": 18265, "object_store_memory": 10**9}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        nodes = [cluster.add_node(num_cpus=2, object_store_memory=10**9) for _ in range(2)]
        cluster.wait_for_nodes()
        flags = [*command(job, out)[4:], "--address", "http://127.0.0.1:18265", "--package", "installed"]
        line = [sys.executable, "-m", "anyecg_ray", "submit", "backfill", *flags]
        pipe = subprocess.PIPE
        process = subprocess.Popen(line, stdout=pipe, stderr=pipe, text=True)
        wait_for(lambda: parts(out) >= 5, process)
        at = parts(out)
        cluster.remove_node(nodes[1], allow_graceful=False)
        said = process.communicate(timeout=240)
        assert process.returncode == 0, said
        assert at < (PATIENTS * EACH) // 20
        check(out)
        assert PLANTED not in "".join(said)
        assert not naming([Path(cluster.head_node.get_session_dir_path())])
    finally:
        cluster.shutdown()

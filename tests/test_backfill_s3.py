"""The same back-fill over S3: archive, manifest, bundle and output in a bucket, and storage that fails."""

import os
import re
import shutil
import subprocess
import sys
import uuid
from pathlib import Path

import pandas as pd
import pytest
from bad_records import copy_good
from faulty_s3 import FaultyS3
from planted import PLANTED

from anyecg_ray import cluster, storage
from anyecg_ray.backfill import Backfill, backfill
from anyecg_ray.cli import main
from anyecg_ray.manifest import Manifest, manifest
from anyecg_ray.pack import Pack, pack
from anyecg_ray.warehouses import Sink
from anyecg_ray.weights import Init, init

FIRST = f"{PLANTED}0000"

INDICATORS = 5
"""Of an untrained bundle."""

AWS = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_REGION": "us-east-1", "NO_PROXY": "127.0.0.1"}


@pytest.fixture(scope="module")
def proxy(s3_endpoint):
    """A proxy before the S3 server, through which this process and all of Ray's workers go."""
    with FaultyS3(s3_endpoint) as faulty, pytest.MonkeyPatch.context() as patch:
        for name in [n for n in os.environ if n.startswith("AWS_")]:
            patch.delenv(name)
        for name, value in (AWS | {"AWS_ENDPOINT_URL": faulty.url, "AWS_EC2_METADATA_DISABLED": "true"}).items():
            patch.setenv(name, value)
        storage.forget_clients()
        with cluster.connected():  # after the environment, which its workers inherit
            yield faulty
    storage.forget_clients()


@pytest.fixture
def bucket(proxy):
    proxy.faults.clear()
    name = f"test-{uuid.uuid4().hex[:12]}"
    storage.filesystem("s3://")[0].mkdir(name)
    return f"s3://{name}"


def upload(folder: Path, uri: str) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            storage.write_atomic(storage.join(uri, str(file.relative_to(folder))), file.read_bytes())


@pytest.fixture
def folder(data, tmp_path):
    """Twelve good records, and the longer ones of another archive."""
    copy_good(data, tmp_path / "archive", 1)
    source = data / "cinc2021" / "training" / "cpsc_2018_extra"
    shutil.copytree(source, tmp_path / "archive" / "extra")
    return tmp_path / "archive"


def settings(place: str, archive: str) -> Backfill:
    """Index `archive` and make a bundle below `place`; the back-fill of the two."""
    manifest(Manifest(archive=archive, out=storage.join(place, "m.parquet"), workers=0))
    init(Init(out=storage.join(place, "bundle"), preset="tiny"))
    return Backfill(
        manifest=storage.join(place, "m.parquet"), bundle=storage.join(place, "bundle"), out=storage.join(place, "out")
    )  # fmt: skip


def table(uri: str) -> pd.DataFrame:
    files, fs = [], storage.filesystem(uri)[0]
    for path in sorted(fs.glob(storage.filesystem(storage.join(uri, "ecg_lab_estimate"))[1] + "/**/*.parquet")):
        with fs.open(path) as file:
            files.append(pd.read_parquet(file))
    return pd.concat(files).drop(columns=["run_id", "estimated_at"]).reset_index(drop=True)


def test_a_bucket_gives_the_same_rows_as_a_folder(folder, bucket, tmp_path):
    upload(folder, bucket + "/archive")
    local = settings(str(tmp_path / "local"), str(folder))
    remote = settings(bucket, bucket + "/archive")
    assert backfill(local) == backfill(remote)
    pd.testing.assert_frame_equal(table(local.out), table(remote.out))


def test_a_span_reads_only_its_own_bytes(data, bucket, proxy):
    upload(data / "mitdb" / "records", bucket + "/archive")
    job = settings(bucket, bucket + "/archive")
    proxy.sent.clear()
    backfill(job)
    signals = {Path(path).name: n for path, n in proxy.sent.items() if path.endswith(".dat")}
    assert len(signals) == 6
    for name, sent in signals.items():
        size = (data / "mitdb" / "records" / name).stat().st_size
        # every byte once, whatever the number of spans; windows that do not fill ten seconds are not asked for
        assert 0.9 * size < sent <= size


@pytest.mark.slow
def test_packs_give_the_same_rows_with_few_requests(folder, bucket, proxy):
    upload(folder, bucket + "/archive")
    storage.remove(bucket + f"/archive/{FIRST}/00003_hr.dat")
    plain = settings(bucket, bucket + "/archive")
    pack(Pack(manifest=plain.manifest, out=bucket + "/packed"))
    packed = plain.model_copy(update={"manifest": bucket + "/packed/manifest.parquet", "out": bucket + "/o"})
    counts, n = [], []
    for job in (plain, packed):
        proxy.requests.clear()
        counts.append(backfill(job))
        n.append(sum(bool(re.match(r"GET .*\.(dat|mat|arrow)", request)) for request in proxy.requests))
    assert counts[0] == counts[1]
    assert counts[0]["missing_signal"] == 1
    pd.testing.assert_frame_equal(table(plain.out), table(packed.out))
    assert n[0] >= 40 > 5 >= n[1] > 0


def test_a_span_of_a_packed_record_reads_only_its_own_bytes(data, bucket, proxy):
    upload(data / "mitdb" / "records", bucket + "/archive")
    job = settings(bucket, bucket + "/archive")
    pack(Pack(manifest=job.manifest, out=bucket + "/packed"))
    proxy.sent.clear()
    backfill(job.model_copy(update={"manifest": bucket + "/packed/manifest.parquet"}))
    sent = sum(n for path, n in proxy.sent.items() if path.endswith(".arrow"))
    size = sum(file.stat().st_size for file in (data / "mitdb" / "records").glob("*.dat"))
    assert 0.9 * size < sent <= size + (8 << 10)  # and what lies between two objects


@pytest.mark.slow
def test_objects_that_could_not_be_packed_are_packed_by_the_next_run(folder, bucket, proxy, capsys):
    upload(folder, bucket + "/archive")
    job = settings(bucket, bucket + "/archive")
    flags = ["pack", "--manifest", job.manifest, "--out", bucket + "/packed"]
    proxy.fail(f"/{FIRST}/00003_hr.dat")
    assert main(flags) == 1
    assert "1 signal files could not be read" in capsys.readouterr().err
    packed = job.model_copy(update={"manifest": bucket + "/packed/manifest.parquet"})
    assert backfill(packed)["transient"] == 1
    proxy.faults.clear()
    assert main(flags) == 0
    assert backfill(packed)["transient"] == 0


def test_packs_that_may_not_be_written(folder, bucket, proxy, capsys):
    upload(folder, bucket + "/archive")
    job = settings(bucket, bucket + "/archive")
    proxy.fail("/packed/packs/", status=403, method="PUT")
    proxy.fail("/packed/packs/", status=403, method="POST")
    assert main(["pack", "--manifest", job.manifest, "--out", bucket + "/packed"]) == 2
    error = capsys.readouterr().err
    assert f"cannot write to {bucket}/packed/packs/" in error
    assert error.count("\n") == 1


def test_a_missing_object_is_a_row(folder, bucket):
    upload(folder, bucket + "/archive")
    storage.remove(bucket + f"/archive/{FIRST}/00003_hr.dat")
    job = settings(bucket, bucket + "/archive")
    counts = backfill(job)
    assert counts["missing_signal"] == 1
    rows = table(job.out)
    assert set(rows[rows.status == "missing_signal"].record_id) == {f"{FIRST}/00003_hr"}


def test_a_503_that_passes_leaves_no_trace(folder, bucket, proxy):
    upload(folder, bucket + "/archive")
    job = settings(bucket, bucket + "/archive")
    proxy.fail(f"/{FIRST}/00003_hr.dat", times=2)
    assert backfill(job)["transient"] == 0


@pytest.mark.slow
def test_a_503_that_stays_is_tried_again_by_the_next_run(folder, bucket, proxy, capsys):
    upload(folder, bucket + "/archive")
    job = settings(bucket, bucket + "/archive").model_copy(update={"shard_spans": 20})
    proxy.fail(f"/{FIRST}/00003_hr.dat")
    first = backfill(job)
    assert first["transient"] == 1
    proxy.faults.clear()
    second = backfill(job)
    assert "2 of 3 shards are done" in capsys.readouterr().out
    assert second["transient"] == 0
    assert second["ok"] == first["ok"] + 1
    rows = table(job.out)
    assert not rows.duplicated(["span_id", "indicator", "model_version"]).any()
    assert backfill(job) == second
    assert "nothing was left to score" in capsys.readouterr().out


@pytest.mark.slow
def test_a_slow_bucket_gives_the_same_rows(folder, bucket, proxy):
    """Every signal is half a second late and every write a fifth: nothing is given up, or written twice."""
    upload(folder, bucket + "/archive")
    job = settings(bucket, bucket + "/archive").model_copy(update={"shard_spans": 8})
    backfill(job)
    proxy.slow(".dat", 0.5)
    proxy.slow("/late/", 0.2)
    proxy.sent.clear()
    late = job.model_copy(update={"out": bucket + "/late"})
    assert backfill(late)["transient"] == 0
    pd.testing.assert_frame_equal(table(late.out), table(job.out))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["parquet", "iceberg", "delta"])
def test_a_warehouse_whose_bucket_answers_503(kind, folder, bucket, proxy, tmp_path):
    """One that passes costs nothing; one that stays ends the job, and the next run brings what was lacking."""
    upload(folder, bucket + "/archive")
    uri = f"sqlite:///{tmp_path}/catalog.db" if kind == "iceberg" else bucket + "/warehouse/one"
    sink = Sink(kind=kind, uri=uri, warehouse=bucket + "/warehouse" if kind == "iceberg" else None)
    job = settings(bucket, bucket + "/archive").model_copy(update={"sink": sink})
    told = _alone(job)
    assert told.returncode == 0, told.stderr
    for method in ("PUT", "POST"):
        proxy.fail("/warehouse/", times=2, method=method)
    grown = job.model_copy(update={"out": bucket + "/other", "bundle": bucket + "/other-bundle"})
    init(Init(out=grown.bundle, preset="tiny", seed=1))
    told = _alone(grown)
    assert told.returncode == 0, told.stderr
    third = job.model_copy(update={"out": bucket + "/third", "bundle": bucket + "/third-bundle"})
    init(Init(out=third.bundle, preset="tiny", seed=2))
    for method in ("PUT", "POST"):
        proxy.fail("/warehouse/", method=method)
    told = _alone(third)
    assert told.returncode in (1, 2)
    assert told.stderr.strip().splitlines()[-1].startswith("anyecg: ")
    assert "Traceback" not in told.stderr
    proxy.faults.clear()
    told = _alone(third)
    assert told.returncode == 0, told.stderr
    assert "going on" in told.stdout
    rows = _warehoused(job)
    assert rows.model_version.nunique() == 3
    assert len(rows) == 3 * INDICATORS * rows.span_id.nunique()
    assert not rows.duplicated(["span_id", "indicator", "model_version"]).any()


def _alone(job):
    """As a process of its own: some clients keep Python's lock while they wait for the proxy, which is in ours."""
    flags = {"manifest": job.manifest, "bundle": job.bundle, "out": job.out, "shard-spans": 8, "sink.every": 0}
    flags |= {f"sink.{name}": value for name in ("kind", "uri", "warehouse") if (value := getattr(job.sink, name))}
    line = [sys.executable, "-m", "anyecg_ray", "backfill", *(f"--{k}={v}" for k, v in flags.items())]
    return subprocess.run(line, capture_output=True, text=True, timeout=280, check=False)


def _warehoused(job):
    """The warehouse's rows, by each format's own library."""
    if job.sink.kind == "iceberg":
        from pyiceberg.catalog import load_catalog

        properties = {"type": "sql", "uri": job.sink.uri, "s3.endpoint": os.environ["AWS_ENDPOINT_URL"]}
        return load_catalog("anyecg", **properties).load_table(job.sink.table).scan().to_pandas()
    if job.sink.kind == "delta":
        from deltalake import DeltaTable

        options = {"AWS_ENDPOINT_URL": os.environ["AWS_ENDPOINT_URL"], "AWS_ALLOW_HTTP": "true"}
        return DeltaTable(job.sink.uri, storage_options=options).to_pandas()
    fs, path = storage.filesystem(job.sink.uri)
    return pd.concat(pd.read_parquet(fs.open(f)) for f in fs.glob(f"{path}/*/part-*.parquet"))


def test_refused_credentials(folder, bucket, proxy, capsys):
    upload(folder, bucket + "/archive")
    job = settings(bucket, bucket + "/archive")
    flags = [f"--{k}={v}" for k, v in (("manifest", job.manifest), ("bundle", job.bundle), ("out", job.out))]
    proxy.fail("", status=403)
    assert main(["backfill", *flags]) == 2
    told = capsys.readouterr().err
    assert "access refused" in told
    assert "AWS_ACCESS_KEY_ID" in told
    assert told.count("\n") == 1


def test_credentials_that_may_not_write(folder, bucket, proxy, capsys):
    upload(folder, bucket + "/archive")
    job = settings(bucket, bucket + "/archive")
    flags = [f"--{k}={v}" for k, v in (("manifest", job.manifest), ("bundle", job.bundle), ("out", job.out))]
    proxy.fail("/out/", status=403, method="PUT")
    assert main(["backfill", *flags]) == 2
    assert f"cannot write to {bucket}/out" in capsys.readouterr().err


def test_signals_that_may_not_be_read_wait_for_the_next_run(folder, bucket, proxy):
    upload(folder, bucket + "/archive")
    job = settings(bucket, bucket + "/archive").model_copy(update={"max_error_rate": 1})
    proxy.fail(".dat", status=403)
    assert backfill(job)["transient"] == 12
    proxy.faults.clear()
    assert backfill(job)["transient"] == 0

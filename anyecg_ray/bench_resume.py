"""Measure a resume: what is done, of very many shards and of a manifest of very many spans."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pyarrow as pa

from anyecg_ray import storage
from anyecg_ray.backfill import Backfill, claimed, plan
from anyecg_ray.ledger import Ledger
from anyecg_ray.manifest import open_manifest
from anyecg_ray.model import load_card
from anyecg_ray.resource_usage import all_mb
from anyecg_ray.warehouses import opened
from anyecg_ray.warehouses.parquet import DELIVERED

LINKS = 50_000
"""Names of one file at most: ext4 allows 65,000."""


def resume(folder: Path, shards: int, rows: pa.Table) -> dict[str, float]:
    """Seconds to learn what is done where 99 of 100 shards are: by opening every part, and with a run's tally.

    rows: of schema.STAGING, what each shard holds.
    """
    book = Ledger(str(folder), "m", "1")
    book.claim({"row_groups": []})
    _staged(book, [f"{n:06d}-000000" for n in range(shards * 99 // 100)], rows)
    return {"resume_without_tally_s": _resumed(folder), "resume_s": _resumed(folder)}


def finished(job: Backfill, rows: pa.Table) -> dict[str, float]:
    """Seconds and memory of the commands `backfill`, which finds nothing left to do, and `status`, when all is done.

    rows: of schema.STAGING, what each shard is said to hold.
    """
    manifest, card = open_manifest(job.manifest), load_card(job.bundle)
    book = Ledger(job.out, card.model_id, card.model_version)
    book.claim(claimed(job, manifest, card, None))
    shards = [shard.name for shard in plan(job.manifest, job.shard_spans)]
    _staged(book, shards, rows)
    book.refresh()
    book.counts()
    book.save_tally()
    warehouse = opened(job.sink, job.out)
    entry = storage.join(book.delivered, warehouse.name, "00000001.json")
    storage.write_atomic(entry, json.dumps(dict.fromkeys(shards, (0, []))).encode())
    told = json.dumps({"version": 1, "model_version": card.model_version}).encode()
    storage.write_atomic(storage.join(warehouse.where, f"{DELIVERED}{book.job['id']}.json"), told)
    again = _command("backfill", "--manifest", job.manifest, "--bundle", job.bundle, "--out", job.out)
    status = _command("status", "--out", job.out)
    return {
        "spans": manifest.rows, "shards": len(shards), "backfill_s": again[0], "backfill_peak_mb": again[1],
        "status_s": status[0], "status_peak_mb": status[1],
    }  # fmt: skip


def _staged(book: Ledger, shards: list[str], rows: pa.Table) -> None:
    """The same rows as so many shards: one file under many names."""
    book.stage(shards[0], rows)
    part = next(Path(book.staging).glob("part-*.parquet"))
    for n, shard in enumerate(shards[1:], 1):
        name = part.with_name(f"part-{shard}.parquet")
        if n % LINKS:
            os.link(part, name)
        else:
            part = Path(shutil.copyfile(part, name))


def _resumed(folder: Path) -> float:
    started = time.perf_counter()
    book = Ledger(str(folder), "m", "1")
    book.claim({"row_groups": []})
    book.done()
    book.counts()
    book.save_tally()
    return time.perf_counter() - started


def _command(*arguments: str) -> tuple[float, float]:
    """Seconds and peak memory, MB, of a command line of ours."""
    started, peak = time.perf_counter(), 0.0
    process = subprocess.Popen([sys.executable, "-m", "anyecg_ray", *arguments], stdout=subprocess.DEVNULL)
    while process.poll() is None:
        try:
            peak = max(peak, all_mb(psutil.Process(process.pid)))
        except psutil.NoSuchProcess:
            break
        time.sleep(0.02)
    if process.wait():
        raise RuntimeError(f"{' '.join(arguments)} ended with {process.returncode}")
    return time.perf_counter() - started, peak

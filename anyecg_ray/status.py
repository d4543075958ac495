"""How far a back-fill is, told from its files: it runs beside the job, on any machine that sees the output."""

import json
import time
from collections.abc import Iterator
from typing import Any, Literal

from anyecg_ray import storage
from anyecg_ray.config import InputError, Location, Settings
from anyecg_ray.lease import FILE, SILENT, alive, read
from anyecg_ray.ledger import Ledger, models
from anyecg_ray.progress import duration


class ShowStatus(Settings):
    """Say how far the back-fills below an output are."""

    out: Location
    """The --out of `anyecg backfill`."""

    format: Literal["text", "json"] = "text"
    """text, or json for a program."""


def status(settings: ShowStatus) -> list[dict[str, Any]]:
    """Print and return what every model's back-fill has come to. Raises InputError where there is none."""
    found = [_of(settings.out, *model) for model in models(settings.out)]
    if not found:
        raise InputError(f"{settings.out}: no back-fill here; `anyecg backfill` makes one")
    if settings.format == "json":
        print(json.dumps(found, indent=2))
    else:
        print("\n".join(line for told in found for line in _lines(told)))
    return found


def _of(out: str, model_id: str, version: str) -> dict[str, Any]:
    ledger = Ledger(out, model_id, version)
    ledger.open()
    driver = read(storage.join(ledger.staging, FILE)) or {}
    counts = ledger.counts()
    shards, spans = driver.get("shards"), driver.get("spans")
    seconds = driver.get("run_seconds") or 0.0
    running = _running(driver)
    told = {
        "model_id": model_id,
        "model_version": version,
        "state": "running" if running else "stopped" if driver.get("state") == "running" else driver.get("state"),
        "shards_done": len(ledger.done()),
        "shards": shards,
        "spans_done": counts.total(),
        "spans": spans,
        "spans_by_status": dict(counts.most_common()),
        "spans_per_second": round(driver["run_spans"] / seconds, 2) if seconds else None,
        "windows_per_second": round(driver["run_windows"] / seconds, 2) if seconds else None,
        "seconds_left": None,
        "shards_delivered": dict(_delivered(ledger, driver.get("delivered") or {})),
        "last_error": driver.get("error"),
    }
    if running and told["spans_per_second"]:
        told["seconds_left"] = round((driver["run_total"] - driver["run_spans"]) / told["spans_per_second"])
    return told


def _running(driver: dict[str, Any]) -> bool:
    if driver.get("state") != "running":
        return False
    living = alive(driver)
    return time.time() - driver["beat_at"] < SILENT if living is None else living


def _delivered(ledger: Ledger, committed: dict[str, int]) -> Iterator[tuple[str, int]]:
    """Warehouses, with the shards that are there. An entry is written before its commit, which may yet fail.

    committed: of each warehouse the last entry that a driver saw committed.
    """
    for name in storage.folders(ledger.delivered):
        folder = storage.join(ledger.delivered, name)
        entries = storage.read_ranges(
            [storage.Range(storage.join(folder, f)) for f in storage.files(folder)[: committed.get(name, -1)]]
        )
        yield name, len({shard for e in entries if isinstance(e, bytes) for shard in json.loads(e)})


def _lines(told: dict[str, Any]) -> Iterator[str]:
    shards, spans = (f"{told[n]:,}" if told[n] is not None else "?" for n in ("shards", "spans"))
    yield f"{told['model_id']} {told['model_version']}: {told['state'] or 'not begun'}"
    yield f"  shards {told['shards_done']:,} of {shards}, spans {told['spans_done']:,} of {spans}"
    for status_, n in told["spans_by_status"].items():
        yield f"    {status_:15} {n:>12,}  {n / told['spans_done']:6.1%}"
    if told["spans_per_second"] is not None:
        left = f", {duration(told['seconds_left'])} left" if told["seconds_left"] is not None else ""
        yield f"  {told['spans_per_second']:,.1f} spans/s, {told['windows_per_second']:,.1f} windows/s{left}"
    for name, n in told["shards_delivered"].items():
        yield f"  {name}: {n:,} shards"
    if told["last_error"]:
        yield f"  last error: {told['last_error']}"

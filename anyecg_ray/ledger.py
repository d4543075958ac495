"""Which shards of a back-fill are scored, and the atomic step that makes one so.

OUT/staging/MODEL_ID/MODEL_VERSION/_job.json       what is scored with what; a resume must match it
OUT/staging/MODEL_ID/MODEL_VERSION/part-….parquet  a shard's rows; that the file is there is the ledger
OUT/staging/MODEL_ID/MODEL_VERSION/_again-SHARD    the statuses whose spans the next run scores again
OUT/staging/MODEL_ID/MODEL_VERSION/_scored-SHARD.N the shard's rows changed for the Nth time: warehouses replace them
OUT/staging/MODEL_ID/MODEL_VERSION/_tally.json     spans by status of most shards, so that nobody opens every part
OUT/staging/MODEL_ID/MODEL_VERSION/_driver.json    who is at work on it (lease.py)
OUT/staging/MODEL_ID/MODEL_VERSION/_delivered/     what each warehouse holds of it (delivery.py)
OUT/runs/RUN_ID.json                               one run: settings, backend, versions, counts, times
"""

import contextlib
import json
import os
import time
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from anyecg_ray import __version__, json_file, schema, storage
from anyecg_ray.config import InputError, JobError
from anyecg_ray.schema import Status

if TYPE_CHECKING:
    from anyecg_ray.model import Card

PART, AGAIN, SCORED = "part-", "_again-", "_scored-"
"""Readers of Parquet pass over names that begin with an underscore."""

JOB, TALLY = "_job.json", "_tally.json"

YOUNG_S = 60.0
"""Seconds for which a file that is not yet whole may still be written."""

AT_ONCE = 32
"""Parts that are read, and marks that are written, at once."""


class Ledger:
    """The staging side of a back-fill with one model."""

    def __init__(self, out: str, model_id: str, model_version: str) -> None:
        self._out = out
        self.staging = storage.join(out, "staging", model_id, model_version)
        self._job: dict[str, Any] = {}
        self._versions: dict[str, int] = {}
        self._again: dict[str, set[str]] = {}
        self._tally: dict[str, tuple[int, dict[str, int]]] = {}

    @property
    def job(self) -> dict[str, Any]:
        """What `claim` wrote when this back-fill first began, with its `id`."""
        return self._job

    def claim(self, job: dict[str, Any]) -> None:
        """Write down what is scored here, or check it, and list what is done. Raises InputError where it differs."""
        where = storage.join(self.staging, JOB)
        before = json_file.read(where)
        if before is None:
            before = {"id": uuid.uuid4().hex[:12], **job}
            json_file.write(where, before)
        if differ := json_file.differing(job, before):
            raise InputError(
                f"{self._out}: holds a back-fill whose {differ}; give the same ones to go on with it, or another --out"
            )
        if len(job["row_groups"]) > len(before["row_groups"]):  # so that what is scored now is compared next time
            before = before | {"row_groups": job["row_groups"]}
            json_file.write(where, before)
        self._job = before
        self._tidy(self.refresh())

    def check(self) -> None:
        """Raise JobError where another driver, begun in the same moment, wrote a job of its own over this one."""
        found = json_file.read(storage.join(self.staging, JOB)) or {}
        if found.get("id") != self._job["id"]:
            raise JobError(f"{self._out}: another back-fill began here in the same moment; run the same line again")

    def open(self) -> None:
        """Read what is there. Raises InputError where no back-fill ever began."""
        found = json_file.read(storage.join(self.staging, JOB))
        if found is None:
            raise InputError(f"{self._out}: no back-fill here; `anyecg backfill` makes one")
        self._job = found
        self.refresh()

    def refresh(self) -> list[str]:
        """Read the state anew, from one listing and the few small files that it names; returns the listing."""
        files = storage.files(self.staging)
        scored = [f.removeprefix(SCORED).rpartition(".") for f in files if f.startswith(SCORED)]
        changed = {shard: int(n) for shard, _, n in sorted(scored, key=lambda s: int(s[2]))}
        parts = (f.removeprefix(PART).removesuffix(".parquet") for f in files if _is_part(f))
        self._versions = {shard: changed.get(shard, 0) for shard in parts}
        marked = [f for f in files if f.startswith(AGAIN)]
        told = storage.read_ranges([storage.Range(storage.join(self.staging, f)) for f in marked])
        self._again = {
            f.removeprefix(AGAIN): set(t.decode().split()) if isinstance(t, bytes) and t else {Status.TRANSIENT}
            for f, t in zip(marked, told, strict=True)
        }
        tally = json_file.read(storage.join(self.staging, TALLY)) or {}
        self._tally = {s: (v, n) for s, (v, n) in tally.items() if self._versions.get(s) == v}
        return files

    def staged(self) -> dict[str, int]:
        """Every shard that has rows, with how many times they were changed since."""
        return dict(self._versions)

    @property
    def delivered(self) -> str:
        """Folder of the logs that say which commit brought which shards into which warehouse."""
        return storage.join(self.staging, "_delivered")

    def done(self) -> set[str]:
        """Shards that are scored, less those that are to be scored again."""
        return set(self._versions) - set(self._again)

    def ask_again(self, statuses: set[str]) -> int:
        """Mark the spans of these statuses to be scored again; returns how many."""
        self._count()
        shards = {s: sum(n.get(t, 0) for t in statuses) for s, (_, n) in self._tally.items()}
        wanted = [s for s, n in shards.items() if n]
        for shard in wanted:
            self._again[shard] = self._again.get(shard, set()) | statuses
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(self._mark, wanted))
        return sum(shards.values())

    def again(self, shard: str) -> list[str] | None:
        """The spans of a shard that are to be scored again; None where all are to be scored."""
        if shard not in self._versions:
            return None
        rows = self.rows(shard, ["span_id", "status"])
        wanted = pc.is_in(rows.column("status"), pa.array(sorted(self._again[shard]), pa.string()))
        spans: list[str] = rows.filter(wanted).column("span_id").to_pylist()
        return spans

    def stage(self, shard: str, rows: pa.Table) -> pa.Table:
        """Make a shard's rows durable: from now on it is scored. Returns all of its rows.

        rows: of the whole shard, or of the spans that were scored again; the others stay as they were.
        """
        if (before := self._versions.get(shard)) is not None:
            old = self.rows(shard)
            old = old.filter(pc.invert(pc.is_in(old.column("span_id"), rows.column("span_id").combine_chunks())))
            rows = pa.concat_tables([old.cast(schema.STAGING), rows.cast(schema.STAGING)])
        transient = Status.TRANSIENT in rows.column("status").to_pylist()
        if transient:
            self._again[shard] = {Status.TRANSIENT}
            self._mark(shard)
        with storage.atomic_output(self._part(shard)) as file:
            pq.write_table(rows, file, compression="zstd")
        self._changed(shard, before)
        self._tally[shard] = (self._versions[shard], dict(Counter(rows.column("status").to_pylist())))
        if not transient and self._again.pop(shard, set()):
            storage.remove(storage.join(self.staging, f"{AGAIN}{shard}"))
        return rows

    def rows(self, shard: str, columns: list[str] | None = None) -> pa.Table:
        """A shard's rows of schema.STAGING."""
        with storage.open_input(self._part(shard)) as file:
            return pq.read_table(file, columns=columns)

    def counts(self) -> Counter[str]:
        """Spans by status over all scored shards."""
        self._count()
        counts: Counter[str] = Counter()
        for _, found in self._tally.values():
            counts.update(found)
        return counts

    def save_tally(self) -> None:
        """Write down the counts, so that the next reader opens only the parts that came after."""
        storage.write_atomic(storage.join(self.staging, TALLY), json.dumps(self._tally).encode())

    def record(self, run_id: str, told: dict[str, Any]) -> None:
        """Keep what one run did."""
        json_file.write(storage.join(self._out, "runs", f"{run_id}.json"), told)

    def _count(self) -> None:
        def one(shard: str) -> tuple[int, dict[str, int]]:
            found = Counter(self.rows(shard, ["status"]).column("status").to_pylist())
            return self._versions[shard], dict(found)

        unknown = [s for s in self._versions if s not in self._tally]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            self._tally.update(zip(unknown, pool.map(one, unknown), strict=True))

    def _changed(self, shard: str, before: int | None) -> None:
        """Number a re-scoring.

        A crash before this is harmless: the `_again` mark still stands, and the shard is scored once more.
        """
        self._versions[shard] = 0 if before is None else before + 1
        if before is not None:
            storage.write_atomic(storage.join(self.staging, f"{SCORED}{shard}.{before + 1}"), b"")
            storage.remove(storage.join(self.staging, f"{SCORED}{shard}.{before}"))

    def _tidy(self, files: list[str]) -> None:
        """Remove what a killed driver was writing; a young file may be another's that is about to be refused."""
        for file in files:
            if file.startswith(".") and file.endswith(".tmp"):
                path = storage.join(self.staging, file)
                with contextlib.suppress(FileNotFoundError):  # on S3 nothing is left behind
                    if time.time() - os.stat(storage.absolute(path)).st_mtime > YOUNG_S:
                        storage.remove(path)

    def _mark(self, shard: str) -> None:
        text = " ".join(sorted(self._again[shard]))
        storage.write_atomic(storage.join(self.staging, f"{AGAIN}{shard}"), text.encode())

    def _part(self, shard: str) -> str:
        return storage.join(self.staging, f"{PART}{shard}.parquet")


def models(out: str) -> list[tuple[str, str]]:
    """(model_id, model_version) of every back-fill below an output."""
    top = storage.join(out, "staging")
    return [(m, v) for m in storage.folders(top) for v in storage.folders(storage.join(top, m))]


def _is_part(name: str) -> bool:
    return name.startswith(PART) and name.endswith(".parquet")


def provenance(card: "Card", run_id: str) -> dict[str, Any]:
    """The columns that say what computed an estimate, and when: now."""
    return {
        "model_id": card.model_id,
        "model_version": card.model_version,
        "weights_sha256": card.weights_sha256,
        "preprocess_fingerprint": card.preprocess_fingerprint,
        "code_version": __version__,
        "run_id": run_id,
        "estimated_at": datetime.now(UTC),
    }


def with_provenance(rows: pa.Table, columns: dict[str, Any]) -> pa.Table:
    """The pipeline's rows, with the columns of `provenance`, as rows of schema.STAGING."""
    constant = {k: pa.array([v] * len(rows), schema.STAGING.field(k).type) for k, v in columns.items()}
    found = {n: rows.column(n) for n in rows.column_names} | constant
    return pa.table([found[f.name] for f in schema.STAGING], schema=schema.STAGING)

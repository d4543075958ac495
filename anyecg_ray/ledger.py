"""Which shards of a back-fill are done, and the atomic step that makes one so.

OUT/staging/MODEL_ID/MODEL_VERSION/_job.json       what is scored with what; a resume must match it
OUT/staging/MODEL_ID/MODEL_VERSION/part-….parquet  a shard's rows; that the file is there is the ledger
OUT/staging/MODEL_ID/MODEL_VERSION/_again-…        beside a shard in which storage failed: the next run scores it again
OUT/ecg_lab_estimate/MODEL_VERSION/part-….parquet  the same shard as published
OUT/runs/RUN_ID.json                               one run: settings, backend, versions, counts, times
"""

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from anyecg_ray import schema, storage
from anyecg_ray.config import InputError
from anyecg_ray.model import Card
from anyecg_ray.publish import Granularity, publishable
from anyecg_ray.schema import Status

PART, AGAIN, JOB = "part-", "_again-", "_job.json"
"""Readers of Parquet pass over names that begin with an underscore."""


class Ledger:
    """The output location of a back-fill with one model."""

    def __init__(self, out: str, card: Card, granularity: Granularity = "span") -> None:
        self._out, self._card, self._granularity = out, card, granularity
        self._again: set[str] = set()
        self.staging = storage.join(out, "staging", card.model_id, card.model_version)
        self.table = storage.join(out, "ecg_lab_estimate", card.model_version)

    def claim(self, job: dict[str, Any]) -> None:
        """Write down what is scored here, or check it. Raises InputError where something else was."""
        where = storage.join(self.staging, JOB)
        try:
            before = json.loads(storage.read_bytes(where))
        except storage.MissingObject:
            storage.write_atomic(where, (json.dumps(job, indent=2) + "\n").encode())
            return
        differ = [k for k in job if k != "row_groups" and job[k] != before.get(k)]
        if job["row_groups"][: len(before["row_groups"])] != before["row_groups"]:
            differ.append("manifest")
        if differ:
            raise InputError(
                f"{self._out}: holds a back-fill whose {', '.join(differ)} differ; "
                "give the same ones to go on with it, or another --out"
            )

    def done(self) -> set[str]:
        """Names of the shards that are committed, less those in which storage failed in a way that may pass."""
        files = self._files()
        self._again = {f.removeprefix(AGAIN) for f in files if f.startswith(AGAIN)}
        return {f.removeprefix(PART).removesuffix(".parquet") for f in files if _is_part(f)} - self._again

    def commit(self, shard: str, rows: pa.Table) -> None:
        """Publish a shard and mark it done. A crash anywhere in between is mended by doing it again."""
        marker = storage.join(self.staging, f"{AGAIN}{shard}")
        transient = Status.TRANSIENT in rows.column("status").to_pylist()
        if transient:
            storage.write_atomic(marker, b"")
        self._write(storage.join(self.table, f"{PART}{shard}.parquet"), self._published(rows))
        self._write(storage.join(self.staging, f"{PART}{shard}.parquet"), rows)
        if not transient and shard in self._again:
            storage.remove(marker)

    def counts(self) -> Counter[str]:
        """Spans by status over all committed shards."""
        counts: Counter[str] = Counter()
        with ThreadPoolExecutor(16) as pool:
            for found in pool.map(self._count, filter(_is_part, self._files())):
                counts.update(found)
        return counts

    def record(self, run_id: str, told: dict[str, Any]) -> None:
        """Keep what one run did."""
        text = json.dumps(told, indent=2, default=str) + "\n"
        storage.write_atomic(storage.join(self._out, "runs", f"{run_id}.json"), text.encode())

    def _published(self, rows: pa.Table) -> pa.Table:
        return publishable(rows, self._card, self._granularity)

    def _files(self) -> list[str]:
        try:
            return storage.list_folder(self.staging)[1]
        except storage.MissingObject:
            return []

    def _count(self, part: str) -> Counter[str]:
        with storage.open_input(storage.join(self.staging, part)) as file:
            return Counter(pq.read_table(file, columns=["status"]).column("status").to_pylist())

    @staticmethod
    def _write(uri: str, rows: pa.Table) -> None:
        with storage.atomic_output(uri) as file:
            pq.write_table(rows, file, compression="zstd")


def _is_part(name: str) -> bool:
    return name.startswith(PART) and name.endswith(".parquet")


def with_provenance(rows: pa.Table, provenance: dict[str, Any]) -> pa.Table:
    """The pipeline's rows as rows of schema.STAGING."""
    constant = {k: pa.array([v] * len(rows), schema.STAGING.field(k).type) for k, v in provenance.items()}
    columns = {n: rows.column(n) for n in rows.column_names} | constant
    return pa.table([columns[f.name] for f in schema.STAGING], schema=schema.STAGING)

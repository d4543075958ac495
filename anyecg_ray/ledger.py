"""Which shards of a back-fill are done, and the atomic step that makes one so.

OUT/staging/MODEL_ID/MODEL_VERSION/job.json        what is scored with what; a resume must match it
OUT/staging/MODEL_ID/MODEL_VERSION/part-….parquet  a shard's rows; that the file is there is the ledger
OUT/ecg_lab_estimate/model_version=…/part-….parquet  the same shard as published
OUT/runs/RUN_ID.json                               one run: settings, backend, versions, counts, times
"""

import json
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from anyecg_ray import schema, storage
from anyecg_ray.config import InputError
from anyecg_ray.model import Card
from anyecg_ray.publish import publishable

PART, JOB = "part-", "job.json"


class Ledger:
    """The output location of a back-fill with one model."""

    def __init__(self, out: str, card: Card) -> None:
        self._out, self._card = out, card
        self.staging = storage.join(out, "staging", card.model_id, card.model_version)
        self.table = storage.join(out, "ecg_lab_estimate", f"model_version={card.model_version}")

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
        """Names of the shards that are committed."""
        return {name.removeprefix(PART).removesuffix(".parquet") for name in self._parts()}

    def commit(self, shard: str, rows: pa.Table) -> None:
        """Publish a shard and mark it done. A crash in between is mended by doing it again."""
        self._write(storage.join(self.table, f"{PART}{shard}.parquet"), publishable(rows, self._card))
        self._write(storage.join(self.staging, f"{PART}{shard}.parquet"), rows)

    def counts(self) -> Counter[str]:
        """Spans by status over all committed shards."""
        counts: Counter[str] = Counter()
        with ThreadPoolExecutor(16) as pool:
            for found in pool.map(self._count, self._parts()):
                counts.update(found)
        return counts

    def record(self, run_id: str, told: dict[str, Any]) -> None:
        """Keep what one run did."""
        text = json.dumps(told, indent=2, default=str) + "\n"
        storage.write_atomic(storage.join(self._out, "runs", f"{run_id}.json"), text.encode())

    def _parts(self) -> Iterable[str]:
        try:
            files = storage.list_folder(self.staging)[1]
        except storage.MissingObject:
            return []
        return [f for f in files if f.startswith(PART) and f.endswith(".parquet")]

    def _count(self, part: str) -> Counter[str]:
        with storage.open_input(storage.join(self.staging, part)) as file:
            return Counter(pq.read_table(file, columns=["status"]).column("status").to_pylist())

    @staticmethod
    def _write(uri: str, rows: pa.Table) -> None:
        with storage.atomic_output(uri) as file:
            pq.write_table(rows, file, compression="zstd")


def with_provenance(rows: pa.Table, provenance: dict[str, Any]) -> pa.Table:
    """The pipeline's rows as rows of schema.STAGING."""
    constant = {k: pa.array([v] * len(rows), schema.STAGING.field(k).type) for k, v in provenance.items()}
    columns = {n: rows.column(n) for n in rows.column_names} | constant
    return pa.table([columns[f.name] for f in schema.STAGING], schema=schema.STAGING)

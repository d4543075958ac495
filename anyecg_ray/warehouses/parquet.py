"""A folder of Parquet: MODEL_VERSION/part-JOB-SHARD.parquet, each shard a file that appears whole.

A shard's file bears its name, so writing it again replaces it; `_delivered-JOB.json` holds the number of the job's last
commit and is written after the files. Folders without "=": pyarrow refuses a partition that is also a column.
"""

import json

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from anyecg_ray import storage
from anyecg_ray.config import InputError
from anyecg_ray.warehouses import same_place


class Parquet:
    """Implements Warehouse on a folder or an s3:// prefix."""

    def __init__(self, uri: str) -> None:
        self.where = storage.absolute(uri)
        self.name = f"parquet-{same_place(self.where)}"
        self.table_sql: str | None = f"read_parquet('{self.where}/*/part-*.parquet', union_by_name => true)"
        if storage.exists(storage.join(self.where, "_delta_log")):
            raise InputError(f"{uri}: is a Delta table; give --sink.kind delta or another --sink.uri")

    def version(self, job: str) -> int:
        """Implements Warehouse."""
        try:
            return int(json.loads(storage.read_bytes(self._marker(job)))["version"])
        except storage.MissingObject:
            return 0

    def commit(self, rows: pa.Table, job: str, version: int, shards: list[str], replace: bool) -> None:
        """Implements Warehouse; `rows` has a column `shard`, an index into `shards`."""
        for index, shard in enumerate(shards):
            mine = rows.filter(pc.equal(rows.column("shard"), index)).drop_columns("shard")
            folder = storage.join(self.where, mine.column("model_version")[0].as_py())
            with storage.atomic_output(storage.join(folder, f"part-{job}-{shard}.parquet")) as file:
                pq.write_table(mine, file, compression="zstd")
        storage.write_atomic(self._marker(job), json.dumps({"version": version}).encode())

    def _marker(self, job: str) -> str:
        return storage.join(self.where, f"_delivered-{job}.json")

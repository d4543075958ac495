"""A folder of Parquet: MODEL_VERSION/part-JOB-SHARD.parquet, each shard a file that appears whole.

A shard's file bears its name, so writing it again replaces it; `_delivered-JOB.json` holds the number of the job's last
commit and is written after the files. Files of two jobs could hold the same key and none give way, so that a model
version belongs to one job. Folders without "=": pyarrow refuses a partition that is also a column.
"""

import json
import uuid
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from anyecg_ray import json_file, storage
from anyecg_ray.config import InputError
from anyecg_ray.warehouses import model_of, named, overtaken

DELIVERED = "_delivered-"
"""Before the job in the name of what tells its last commit."""


IDENTITY = "_identity"
"""A file with a name for the folder that it keeps where it is moved or mounted elsewhere."""


class Parquet:
    """Implements Warehouse on a folder or an s3:// prefix."""

    whole_shards = True

    def __init__(self, uri: str) -> None:
        self.where = storage.absolute(uri)
        self.table_sql: str | None = f"read_parquet('{self.where}/*/part-*.parquet', union_by_name => true)"
        if storage.exists(storage.join(self.where, "_delta_log")):
            raise InputError(f"{uri}: is a Delta table; give --sink.kind delta or another --sink.uri")
        identity = storage.join(self.where, IDENTITY)
        if not storage.exists(identity):
            storage.create(identity, uuid.uuid4().hex.encode())
        self.name = f"parquet-{named(storage.read_bytes(identity).decode())}"

    def version(self, job: str) -> int:
        """Implements Warehouse."""
        return int(self._read_log(_delivered(job)).get("version", 0))

    def commit(self, rows: pa.Table, job: str, version: int, shards: list[str], replace: bool) -> None:
        """Implements Warehouse."""
        model = model_of(rows)
        if version == 1:
            self._check_alone(job, model)
        if self.version(job) > version:
            raise overtaken(self.where, version)
        for index, shard in enumerate(shards):
            mine = rows.filter(pc.equal(rows.column("shard"), index)).drop_columns("shard")
            with storage.atomic_output(storage.join(self.where, model, f"part-{job}-{shard}.parquet")) as file:
                pq.write_table(mine, file, compression="zstd")
        told = {"version": version, "model_version": model}
        storage.write_atomic(storage.join(self.where, _delivered(job)), json.dumps(told).encode())

    def _check_alone(self, job: str, model: str) -> None:
        files = storage.files(storage.join(self.where, model))
        # a job whose first commit was cut off has left files and no word of it
        if any(file.startswith("part-") and not file.startswith(f"part-{job}-") for file in files):
            raise InputError(
                f"{self.where}: holds estimates of model version {model} from another back-fill, and files do not "
                "give way to each other; give another --sink.uri, or iceberg, delta or postgres"
            )

    def _read_log(self, name: str) -> dict[str, Any]:
        return json_file.read(storage.join(self.where, name)) or {}


def _delivered(job: str) -> str:
    return f"{DELIVERED}{job}.json"

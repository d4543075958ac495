"""An Apache Iceberg table through pyiceberg: a commit is one snapshot, and the job's number a property of the table.

Both change in one transaction. A property outlives the expiry of snapshots and any compaction; the shards stand in
the snapshot's summary besides, for whoever reads the history. Partitioned by model version and by the day of
estimation: the days of the ECGs would scatter every commit over thousands of small files.
"""

import os
import time
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.catalog import Catalog, load_catalog
from pyiceberg.exceptions import (
    CommitFailedException,
    NamespaceAlreadyExistsError,
    NoSuchTableError,
    TableAlreadyExistsError,
)
from pyiceberg.expressions import And, In
from pyiceberg.table import Table

from anyecg_ray import storage
from anyecg_ray.config import InputError, JobError, fingerprint
from anyecg_ray.schema import ECG_LAB_ESTIMATE
from anyecg_ray.warehouses import Sink, attempts, model_of, named, overtaken
from anyecg_ray.warehouses.addresses import line, s3_endpoint, shown

SEVERAL = "several"
"""Instead of the job that writes a model version's rows: their keys may meet, so each commit replaces by key."""

TABLE = {
    # a snapshot a minute: keep the metadata files of the last ones, and join the small manifests
    "write.metadata.delete-after-commit.enabled": "true",
    "write.metadata.previous-versions-max": "20",
    "commit.manifest-merge.enabled": "true",
    "write.parquet.compression-codec": "zstd",
}


class Iceberg:
    """Implements Warehouse on a table of a catalog."""

    whole_shards = False

    def __init__(self, sink: Sink, out: str) -> None:
        properties = _catalog(sink, out)
        place, self._properties = properties.get("uri", str(properties.get("type"))), sink.properties
        self.where = f"{sink.table} in {shown(place)}"
        self._table_name = sink.table
        self.table_sql: str | None = sink.table
        try:
            self._catalog = load_catalog("anyecg", **properties)
            table = _made(self._catalog, sink.table)
        except ImportError:
            raise
        except Exception as error:  # each kind of catalog has errors of its own
            raise InputError(f"{self.where}: cannot open it ({line(error, self._properties)})") from None
        self.name = f"iceberg-{named(str(table.metadata.table_uuid))}"

    def version(self, job: str) -> int:
        """Implements Warehouse."""
        return _last(self._loaded(), job)[0]

    def commit(self, rows: pa.Table, job: str, version: int, shards: list[str], replace: bool) -> None:
        """Implements Warehouse. Another writer's commit in between is no error: ours is tried again on top of it."""
        rows = rows.drop_columns("shard")
        for attempt in attempts(self.where):
            try:
                table = self._loaded()
                number, carried = _last(table, job)
                if number < version:
                    self._try(table, rows, job, version, shards, replace)
                elif (number, carried) != (version, fingerprint(shards)):
                    raise overtaken(self.where, version)
                return  # made just now, or before, and its answer was lost
            except JobError:
                raise
            except CommitFailedException:
                continue
            except Exception as error:  # storage, catalog: each has errors of its own
                if attempt >= 2:
                    raise JobError(f"{self.where}: did not take a commit ({line(error, self._properties)})") from None
                time.sleep(2**attempt)

    def _try(self, table: Table, rows: pa.Table, job: str, version: int, shards: list[str], replace: bool) -> None:
        model = model_of(rows)
        before = table.properties.get(_writer(model), job)
        about = {"anyecg.job": job, "anyecg.commit": str(version), "anyecg.shards": ",".join(shards)}
        with table.transaction() as transaction:
            if missing := [f for f in ECG_LAB_ESTIMATE if f.name not in table.schema().column_names]:
                with transaction.update_schema() as update:
                    update.union_by_name(pa.schema([f.with_nullable(True) for f in missing]))
            transaction.set_properties(
                {
                    _commit(job): f"{version} {fingerprint(shards)}",
                    _writer(model): job if before == job else SEVERAL,
                }
            )
            if replace or before != job:
                transaction.overwrite(rows, overwrite_filter=_of(rows), snapshot_properties=about)
            else:
                transaction.append(rows, snapshot_properties=about)

    def _loaded(self) -> Table:
        table = self._catalog.load_table(self._table_name)
        # here alone, and not in the table: pyiceberg would put our rows on top of another's commit without a look at it
        table.metadata.properties["commit.retry.num-retries"] = "0"
        return table


def _commit(job: str) -> str:
    return f"anyecg.commit.{job}"


def _writer(model: str) -> str:
    return f"anyecg.writer.{model}"


def _last(table: Table, job: str) -> tuple[int, str]:
    """Number of the job's last commit, and the fingerprint of the shards that it carried."""
    number, _, carried = table.properties.get(_commit(job), "0").partition(" ")
    return int(number), carried


def _made(catalog: Catalog, name: str) -> Table:
    try:
        return catalog.load_table(name)
    except NoSuchTableError:
        pass
    try:
        catalog.create_namespace(name.rpartition(".")[0])
    except NamespaceAlreadyExistsError:
        pass
    try:
        with (
            catalog.create_table_transaction(name, ECG_LAB_ESTIMATE, properties=TABLE) as transaction,
            transaction.update_spec() as spec,
        ):
            spec.add_identity("model_version")
            spec.add_field("estimated_at", "day", "estimated_day")
    except (TableAlreadyExistsError, CommitFailedException):
        pass  # made by another driver, in the same moment
    return catalog.load_table(name)


def _of(rows: pa.Table) -> Any:
    """The rows' spans of their model version, as a condition."""
    spans, versions = (pc.unique(rows.column(n)).to_pylist() for n in ("span_id", "model_version"))
    return And(In(term="model_version", literals=set(versions)), In(term="span_id", literals=set(spans)))


def _catalog(sink: Sink, out: str) -> dict[str, str]:
    """Properties of the catalog."""
    found = dict(sink.properties)
    if sink.uri is None and "uri" not in found:
        if not storage.is_local(out):
            raise InputError(f"{out}: the embedded catalog is a file on disk; give --sink.uri, a catalog's address")
        found |= {"type": "sql", "uri": f"sqlite:///{storage.join(storage.absolute(out), 'catalog.db')}"}
        os.makedirs(storage.absolute(out), exist_ok=True)
        found.setdefault("warehouse", sink.warehouse or f"file://{storage.join(storage.absolute(out), 'warehouse')}")
    elif sink.uri is not None:
        found |= _kind(sink.uri)
    if sink.warehouse:
        found["warehouse"] = sink.warehouse
    return _for_s3(found)


def _kind(uri: str) -> dict[str, str]:
    scheme = uri.partition(":")[0]
    if scheme in ("http", "https"):
        return {"type": "rest", "uri": uri}
    if scheme == "thrift":
        return {"type": "hive", "uri": uri}
    if scheme == "glue":
        return {"type": "glue"}
    if scheme.partition("+")[0] in ("sqlite", "postgresql", "mysql"):
        return {"type": "sql", "uri": uri}
    raise InputError(
        f"setting sink.uri: {shown(uri)}; give http(s)://… , glue://, thrift://… or a SQL database's address"
    )


def _for_s3(properties: dict[str, str]) -> dict[str, str]:
    """The AWS variables that pyiceberg does not read by itself."""
    endpoint = s3_endpoint()
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    return {
        **({"s3.endpoint": endpoint} if endpoint else {}),
        **({"s3.region": region} if region else {}),
        **properties,
    }

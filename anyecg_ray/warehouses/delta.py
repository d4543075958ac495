"""A Delta Lake table: a commit carries the job's application transaction, `txn` in the table's log.

That pair of job and number survives checkpoints, compaction and vacuum, and two writers of one number conflict.
Partitioned by model version and by the day of estimation (a column of its own, `estimated_date`: Delta has no hidden
partitions): the days of the ECGs would scatter every commit over thousands of small files.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError

from anyecg_ray import storage
from anyecg_ray.config import InputError, JobError, fingerprint
from anyecg_ray.schema import ECG_LAB_ESTIMATE
from anyecg_ray.warehouses import attempts, model_of, named, overtaken
from anyecg_ray.warehouses.addresses import line, s3_endpoint

T = TypeVar("T")

PARTITIONS = ["model_version", "estimated_date"]

HISTORY = 50
"""Commits of all writers among which one whose answer was lost is looked for."""

SEVERAL = 1
"""Instead of the job that writes a model version's rows: their keys may meet, so each commit replaces by key."""


class Delta:
    """Implements Warehouse on a folder or an s3:// prefix."""

    whole_shards = False

    def __init__(self, uri: str, properties: dict[str, str]) -> None:
        self.where = storage.absolute(uri)
        self.table_sql: str | None = f"delta_scan('{self.where}')"
        self._options = {**_from_environment(), **properties} if not storage.is_local(uri) else dict(properties)
        if not self._is_there():
            if storage.folders(self.where) or storage.files(self.where):
                raise InputError(f"{uri}: holds files that are no Delta table; give another --sink.uri")
            self._create()
        self.name = f"delta-{named(str(self._table().metadata().id))}"

    def version(self, job: str) -> int:
        """Implements Warehouse."""
        return _last(self._table(), job)

    def commit(self, rows: pa.Table, job: str, version: int, shards: list[str], replace: bool) -> None:
        """Implements Warehouse."""
        rows = rows.drop_columns("shard")
        rows = rows.append_column("estimated_date", pc.cast(rows.column("estimated_at"), pa.date32()))
        for _ in attempts(self.where):
            try:
                table = self._table()
                if _last(table, job) < version:
                    self._write(table, rows, job, version, shards, replace)
                elif not _made_before(table, job, version, shards):
                    raise overtaken(self.where, version)
                return
            except CommitFailedError:  # another job's commit of the same model came between: on top of it
                continue
            except (DeltaError, OSError) as error:
                raise JobError(f"{self.where}: Delta did not take a commit ({line(error, self._options)})") from None

    def _write(
        self, table: DeltaTable, rows: pa.Table, job: str, version: int, shards: list[str], replace: bool
    ) -> None:
        writer = f"anyecg/writer/{model_of(rows)}"
        before = table.transaction_version(writer) or _number(job)
        several = before != _number(job)
        how: dict[str, Any] = {"mode": "append"}
        if replace or several:
            how = {"mode": "overwrite", "predicate": _of(rows)}
        write_deltalake(
            table,
            rows,
            schema_mode="merge",
            commit_properties=CommitProperties(
                custom_metadata={
                    "anyecg.job": job, "anyecg.commit": str(version), "anyecg.shards": ",".join(shards)
                },
                # two writers of one model version conflict, so that none misses what the other has begun
                app_transactions=[
                    Transaction(_app(job), version),
                    Transaction(writer, SEVERAL if several else _number(job)),
                ],
            ),
            **how,
        )  # fmt: skip

    def _is_there(self) -> bool:
        return self._asked(lambda: DeltaTable.is_deltatable(self.where, self._options or None))

    def _table(self) -> DeltaTable:
        return self._asked(lambda: DeltaTable(self.where, storage_options=self._options or None))

    def _create(self) -> None:
        """Empty, so that the first commits of two drivers meet in one table and see each other."""
        columns = pa.schema([*ECG_LAB_ESTIMATE, pa.field("estimated_date", pa.date32())])

        def create() -> None:
            with suppress(CommitFailedError):  # another driver did, in the same moment
                DeltaTable.create(
                    self.where, columns, mode="ignore", partition_by=PARTITIONS, storage_options=self._options or None
                )

        self._asked(create)

    def _asked(self, action: Callable[[], T]) -> T:
        try:
            return action()
        except (DeltaError, OSError) as error:
            raise InputError(f"{self.where}: cannot open the Delta table ({line(error, self._options)})") from None


def _app(job: str) -> str:
    return f"anyecg/{job}"


def _last(table: DeltaTable, job: str) -> int:
    return int(table.transaction_version(_app(job)) or 0)


def _number(job: str) -> int:
    """The job as a number, which is all that an application transaction holds; never SEVERAL."""
    return int(fingerprint(job)[:12], 16) + SEVERAL + 1


def _made_before(table: DeltaTable, job: str, version: int, shards: list[str]) -> bool:
    """Whether this very commit was made and its answer lost."""
    wanted = {"anyecg.job": job, "anyecg.commit": str(version), "anyecg.shards": ",".join(shards)}
    return any(wanted.items() <= entry.items() for entry in table.history(HISTORY))


def _of(rows: pa.Table) -> str:
    """The rows' spans of their model version, as a condition."""
    spans = ", ".join(_quoted(s) for s in pc.unique(rows.column("span_id")).to_pylist())
    versions = ", ".join(_quoted(v) for v in pc.unique(rows.column("model_version")).to_pylist())
    return f"model_version IN ({versions}) AND span_id IN ({spans})"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _from_environment() -> dict[str, str]:
    """What deltalake does not read by itself: that an endpoint of one's own may speak plain HTTP."""
    endpoint = s3_endpoint()
    if not endpoint:
        return {}
    return {"AWS_ENDPOINT_URL": endpoint, "AWS_ALLOW_HTTP": str(endpoint.startswith("http://")).lower()}

"""Where published estimates go: a folder of Parquet, an Iceberg or Delta table, or PostgreSQL; one file each.

Every warehouse keeps one number per job, the number of its last commit, and moves it in the same atomic step
as the rows. delivery.py numbers the commits, so a commit whose outcome a crash hid is told from one that failed.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, Protocol, Self

import pyarrow as pa
from pydantic import Field, model_validator

from anyecg_ray import storage
from anyecg_ray.config import InputError, JobError, Location, Settings, absolute, fingerprint
from anyecg_ray.warehouses import addresses, latest

Kind = Literal["parquet", "iceberg", "postgres", "delta"]

ATTEMPTS = 10
"""Of a commit that other writers of the table overtake."""


class Sink(Settings):
    """Which warehouse, and where."""

    kind: Kind = "parquet"
    """parquet, iceberg, postgres or delta."""

    uri: Location | None = None
    """Parquet, Delta: folder or s3:// prefix. Iceberg: the catalog (http://… REST, glue://, thrift://… Hive, sqlite:///…
    or another SQL database). PostgreSQL: postgresql://host/database, credentials from PGPASSWORD or ~/.pgpass.
    By default below --out; PostgreSQL: what libpq's environment says."""

    warehouse: Location | None = None
    """Iceberg: where the catalog keeps its tables, if it does not know by itself."""

    table: str = "anyecg.ecg_lab_estimate"
    """Iceberg, PostgreSQL: namespace or schema, and table."""

    properties: dict[str, str] = {}
    """Iceberg: further properties of the catalog. Delta: storage options. Secrets belong into the environment."""

    every: float = Field(60, ge=0)
    """Seconds after which rows that wait are committed; each commit is a snapshot of the table."""

    @model_validator(mode="after")
    def _is_usable(self) -> Self:
        _check(self)
        return self

    def absolute(self) -> Self:
        """See Settings. The address of a catalog or a database is no path, nor is a catalog's name of a warehouse."""
        if self.kind == "postgres":
            return self
        if self.kind != "iceberg":
            return super().absolute()
        embedded = (self.uri or self.properties.get("uri", "sqlite")).startswith("sqlite")
        own = _placed({"uri": self.uri, "warehouse": self.warehouse}, embedded)
        return self.model_copy(update={**own, "properties": {**self.properties, **_placed(self.properties, embedded)}})


def _placed(found: Mapping[str, str | None], embedded: bool) -> dict[str, str]:
    """What there is of uri and warehouse, with absolute paths. embedded: the catalog is SQLite's file."""
    make: dict[str, Callable[[str], str]] = {"uri": addresses.at_home, "warehouse": absolute if embedded else str}
    return {name: make[name](value) for name in make if (value := found.get(name))}


class Warehouse(Protocol):
    """A table that takes rows of schema.ECG_LAB_ESTIMATE, each key once."""

    name: str
    """Which table this is: where the numbers of its commits are kept goes by it."""

    where: str
    """For people to read; no secret in it."""

    whole_shards: bool
    """Whether a shard that changed has to come whole, because its rows are kept together."""

    table_sql: str | None
    """What a FROM clause says to read it; None where the warehouse has the view of the newest versions itself."""

    def version(self, job: str) -> int:
        """Number of the last commit of a job, 0 before the first."""

    def commit(self, rows: pa.Table, job: str, version: int, shards: list[str], replace: bool) -> None:
        """Make the rows visible and `version` the job's last commit, both or neither.

        rows: of one model version, with a column `shard`, an index into `shards`.
        replace: rows of the same spans and model version may be there and give way. Where another job has written
        rows of that model version they always do, or the commit is refused.
        Raises InputError or JobError, in one line, where the warehouse does not take them, and JobError where a
        commit of that number carried other shards: another driver of the job is at work.
        """


def opened(sink: Sink, out: str) -> Warehouse:
    """The warehouse, ready to take rows; made where it is not there. Raises InputError."""
    uri = sink.uri or storage.join(out, "ecg_lab_estimate")
    try:
        warehouse = _opened(sink, out, uri)
    except ImportError as error:
        missing = f"--sink.kind {sink.kind} needs {error.name}; pip install 'anyecg_ray[warehouse]'"
        raise InputError(missing) from None
    if warehouse.table_sql:
        latest.write(out, sink.kind, warehouse.table_sql)
    return warehouse


def _opened(sink: Sink, out: str, uri: str) -> Warehouse:
    # imported here: each needs a library that the others do not
    if sink.kind == "iceberg":
        from anyecg_ray.warehouses.iceberg import Iceberg

        return Iceberg(sink, out)
    if sink.kind == "postgres":
        from anyecg_ray.warehouses.postgres import Postgres

        return Postgres(sink)
    if sink.kind == "delta":
        from anyecg_ray.warehouses.delta import Delta

        return Delta(uri, sink.properties)
    from anyecg_ray.warehouses.parquet import Parquet

    return Parquet(uri)


def _check(sink: Sink) -> None:
    namespace, _, table = sink.table.partition(".")
    if not (namespace and table) or "." in table:
        raise InputError(f"setting sink.table: {sink.table}; give namespace.table")
    for name, address in {"uri": sink.uri, "properties.uri": sink.properties.get("uri")}.items():
        if addresses.holds_secret(address or ""):
            mend = "leave it out and put it into PGPASSWORD, ~/.pgpass or the catalog's own variables"
            raise InputError(f"setting sink.{name}: holds a password or a token; {mend} (an @ that is none: %40)")


def without_secrets(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings to write down: without users, parameters of addresses, and properties that may be secret."""
    sink = settings["sink"]
    hidden: dict[str, Any] = {"properties": addresses.written(sink["properties"])}
    if sink["uri"] and sink["kind"] in ("iceberg", "postgres"):
        hidden["uri"] = addresses.shown(sink["uri"])
    return {**settings, "sink": {**sink, **hidden}}


def model_of(rows: pa.Table) -> str:
    """The model version that all rows have."""
    version: str = rows.column("model_version")[0].as_py()
    return version


def attempts(where: str) -> Iterator[int]:
    """0, 1, … for the body to commit and leave; longer and longer pauses between. Raises JobError after the last."""
    for attempt in range(ATTEMPTS):
        yield attempt
        time.sleep(0.1 * 2 ** min(attempt, 5))
    raise JobError(f"{where}: {ATTEMPTS} commits in a row were overtaken by others; run the same line again")


def overtaken(where: str, version: int) -> JobError:
    """What is raised where a commit's number is taken by another."""
    return JobError(f"{where}: another driver of this job made its commit {version}; run the same line again")


def named(identity: str) -> str:
    """A table's name in file names, by an identity of its own: its address may change, or mean another table."""
    return fingerprint(identity)[:8]

"""PostgreSQL through ADBC: binary COPY into a temporary table, then INSERT … ON CONFLICT, in one transaction.

The job's number stands in `<table>_commit`, which the same transaction moves. Schema, tables and the view of the
newest version per key are created where they are not there. Credentials are libpq's business: PGPASSWORD, ~/.pgpass, a
service.
"""

import time
import uuid
from typing import Any

import adbc_driver_manager
import adbc_driver_postgresql.dbapi as adbc
import pyarrow as pa

from anyecg_ray.config import InputError, JobError
from anyecg_ray.schema import ECG_LAB_ESTIMATE, TIME
from anyecg_ray.warehouses import Sink, model_of, named, overtaken
from anyecg_ray.warehouses.addresses import line, shown

PATIENCE = 120
"""Seconds for which a server that is away is tried again: a restart or a fail-over."""

KEY = "span_id, indicator, model_version, coalesce(window_start, '-1'::real)"
"""A table of windows has one row per window besides; null is no key, hence -1."""

COLUMNS = ", ".join(ECG_LAB_ESTIMATE.names)

TYPES = {
    pa.string(): "text",
    pa.float32(): "real",
    pa.int32(): "integer",
    pa.bool_(): "boolean",
    TIME: "timestamptz",
    pa.list_(pa.string()): "text[]",
}


class Postgres:
    """Implements Warehouse on a table of a database."""

    whole_shards = False

    def __init__(self, sink: Sink) -> None:
        self._uri = sink.uri or "postgresql://"
        schema, _, table = sink.table.partition(".")
        self._table, self._commits = (f"{_name(schema)}.{_name(t)}" for t in (table, f"{table}_commit"))
        self._latest, self._index = f"{_name(schema)}.{_name(f'{table}_latest')}", _name(f"{table}_key")
        self._schema = _name(schema)
        self.table_sql: str | None = None
        self.where = f"{sink.table} in {shown(self._uri)}"
        try:
            identity = self._do(self._create)
        except adbc_driver_manager.Error as error:
            raise InputError(f"{self.where}: cannot open it ({line(error, {})})") from None
        self.name = f"postgres-{named(identity)}"

    def version(self, job: str) -> int:
        """Implements Warehouse."""
        return self._retried(lambda cursor: self._version(cursor, job))

    def commit(self, rows: pa.Table, job: str, version: int, shards: list[str], replace: bool) -> None:
        """Implements Warehouse. A server that is away is waited for."""
        rows, model = rows.select(ECG_LAB_ESTIMATE.names), model_of(rows)

        def action(cursor: Any) -> None:
            # drivers that were started by mistake beside each other wait here, and the later one finds it done
            cursor.execute("SELECT pg_advisory_xact_lock(hashtext($1))", (f"anyecg/{job}",))
            if self._version(cursor, job) >= version:
                self._check_same(cursor, job, version, shards)
            else:
                self._insert(cursor, rows, replace)
                cursor.execute(
                    f"INSERT INTO {self._commits} (job, version, model_version, shards) VALUES ($1, $2, $3, $4)",
                    (job, version, model, ",".join(shards)),
                )

        self._retried(action)

    def _check_same(self, cursor: Any, job: str, version: int, shards: list[str]) -> None:
        """Raise JobError unless this very commit was made, and its answer lost."""
        cursor.execute(f"SELECT shards FROM {self._commits} WHERE job = $1 AND version >= $2", (job, version))
        if cursor.fetchall() != [(",".join(shards),)]:
            raise overtaken(self.where, version)

    def _insert(self, cursor: Any, rows: pa.Table, replace: bool) -> None:
        cursor.adbc_ingest("anyecg_incoming", rows, mode="create", temporary=True)
        if replace:
            cursor.execute(
                f"DELETE FROM {self._table} t USING (SELECT DISTINCT span_id, model_version FROM anyecg_incoming) i "
                "WHERE t.span_id = i.span_id AND t.model_version = i.model_version"
            )
        values = ", ".join(f"{n} = excluded.{n}" for n in ECG_LAB_ESTIMATE.names)
        cursor.execute(
            f"INSERT INTO {self._table} ({COLUMNS}) SELECT {COLUMNS} FROM anyecg_incoming "
            f"ON CONFLICT ({KEY}) DO UPDATE SET {values}"
        )
        cursor.execute("DROP TABLE anyecg_incoming")

    def _create(self, cursor: Any) -> str:
        """Make what is not there; returns the table's identity, which a dump and a new address leave as it is."""
        # IF NOT EXISTS races with itself: two back-fills that begin together take turns
        cursor.execute("SELECT pg_advisory_xact_lock(hashtext('anyecg'))")
        cursor.execute("SET LOCAL client_min_messages = warning")
        if not self._exists(cursor):
            columns = ", ".join(_column(f) for f in ECG_LAB_ESTIMATE)
            cursor.execute(f"CREATE SCHEMA IF NOT EXISTS {self._schema}")
            cursor.execute(f"CREATE TABLE {self._table} ({columns})")
            cursor.execute(f"CREATE UNIQUE INDEX {self._index} ON {self._table} ({KEY})")
            cursor.execute(f"CREATE INDEX ON {self._table} (patient_id, ecg_time)")
            cursor.execute(
                f"CREATE TABLE IF NOT EXISTS {self._commits} (job text, version bigint, model_version text, "
                "shards text, at timestamptz DEFAULT now(), PRIMARY KEY (job, version))"
            )
            cursor.execute(f"COMMENT ON TABLE {self._commits} IS 'anyecg {uuid.uuid4()}'")
            self._create_view(cursor)
        # who may only insert can go on with a table that has all columns
        if missing := [f for f in ECG_LAB_ESTIMATE if f.name not in self._columns(cursor)]:
            for field in missing:
                cursor.execute(f"ALTER TABLE {self._table} ADD COLUMN {_column(field.with_nullable(True))}")
            self._create_view(cursor)
        cursor.execute("SELECT obj_description($1::regclass, 'pg_class')", (self._commits,))
        return str(cursor.fetchone()[0])

    def _create_view(self, cursor: Any) -> None:
        cursor.execute(
            f"CREATE OR REPLACE VIEW {self._latest} AS SELECT DISTINCT ON (span_id, indicator, window_start) "
            f"{', '.join(map(_name, self._columns(cursor)))} FROM {self._table} JOIN "
            f"(SELECT model_version, min(at) AS introduced FROM {self._commits} GROUP BY model_version) AS versions "
            "USING (model_version) "
            "ORDER BY span_id, indicator, window_start, introduced DESC, estimated_at DESC, model_version DESC"
        )

    def _columns(self, cursor: Any) -> list[str]:
        """All columns in the table's own order: a view can be replaced only where new ones come last."""
        cursor.execute(
            "SELECT attname::text FROM pg_attribute "
            "WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
            (self._table,),
        )
        return [name for (name,) in cursor.fetchall()]

    def _exists(self, cursor: Any) -> bool:
        cursor.execute("SELECT to_regclass($1)::text", (self._table,))
        return cursor.fetchone()[0] is not None

    def _version(self, cursor: Any, job: str) -> int:
        cursor.execute(f"SELECT max(version) FROM {self._commits} WHERE job = $1", (job,))
        return int(cursor.fetchone()[0] or 0)

    def _retried(self, action: Any) -> Any:
        until = time.monotonic() + PATIENCE
        while True:
            try:
                return self._do(action)
            except adbc_driver_manager.Error as error:
                if not _passes(error) or time.monotonic() > until:
                    raise JobError(
                        f"{self.where}: did not take it ({line(error, {})}); run the same line again"
                    ) from None
                time.sleep(1)

    def _do(self, action: Any) -> Any:
        """The action in a transaction of a connection of its own."""
        with adbc.connect(self._uri) as connection, connection.cursor() as cursor:
            result = action(cursor)
            connection.commit()
            return result


def _name(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def _column(field: pa.Field) -> str:
    return f"{field.name} {TYPES[field.type]}" + ("" if field.nullable else " NOT NULL")


def _passes(error: adbc_driver_manager.Error) -> bool:
    """Whether the connection or the server is at fault, or another transaction, and not what was asked."""
    code = getattr(error, "sqlstate", None) or ""
    lost = not code and error.status_code == adbc_driver_manager.AdbcStatusCode.IO
    return lost or code[:2] in ("08", "57", "53", "40")

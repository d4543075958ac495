"""Each kind of warehouse with a reader that is none of ours: DuckDB on files, libpq on PostgreSQL."""

import os

import duckdb
import pytest

from anyecg_ray.warehouses import Sink, opened

KINDS = ["parquet", "delta", "iceberg", "postgres"]


class Place:
    """A warehouse and the way to its rows."""

    def __init__(self, kind, out, uri, rows):
        self.sink, self.out, self.rows = Sink(kind=kind, uri=uri), out, rows

    def open(self):
        return opened(self.sink, self.out)

    def flags(self):
        """For a command line."""
        return ["--sink.kind", self.sink.kind, *(["--sink.uri", self.sink.uri] if self.sink.uri else [])]


def made(kind, out, request):
    """A place of that kind whose files lie below `out`. request: pytest's, for a database of its own."""
    table = f"{out}/ecg_lab_estimate"
    if kind == "parquet":
        return Place(kind, out, None, lambda: duck(f"FROM read_parquet('{table}/*/*.parquet', union_by_name => true)"))
    if kind == "delta":
        return Place(kind, out, None, lambda: duck(f"FROM delta_scan('{table}')"))
    if kind == "iceberg":
        return Place(kind, out, None, lambda: duck(f"FROM iceberg_scan('{metadata(out)}')"))
    uri = request.getfixturevalue("postgres")(request.node.name)
    return Place(kind, out, uri, lambda: psql(uri, "SELECT * FROM anyecg.ecg_lab_estimate"))


@pytest.fixture(params=KINDS)
def place(request, tmp_path):
    return made(request.param, str(tmp_path / "out"), request)


def duck(query):
    connection = duckdb.connect()
    for extension in ("avro", "iceberg", "delta"):
        module = __import__(f"duckdb_extension_{extension}")
        path = next(p for p in extension_files(module) if p.endswith(".duckdb_extension"))
        connection.execute(f"INSTALL '{path}'; LOAD {extension}")
    return connection.execute(query).df()


def extension_files(module):
    for folder, _, files in os.walk(os.path.dirname(module.__file__)):
        yield from (os.path.join(folder, f) for f in files)


def metadata(out):
    from pyiceberg.catalog import load_catalog

    catalog = load_catalog("anyecg", type="sql", uri=f"sqlite:///{out}/catalog.db", warehouse=f"file://{out}/warehouse")
    return catalog.load_table("anyecg.ecg_lab_estimate").metadata_location


def psql(uri, query):
    import adbc_driver_postgresql.dbapi as adbc

    with adbc.connect(uri) as connection, connection.cursor() as cursor:
        cursor.execute(query)
        return cursor.fetch_arrow_table().to_pandas()

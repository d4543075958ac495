"""Every warehouse takes numbered commits: rows and number together, each key once, whatever is done twice."""

import sys
import tomllib
from datetime import UTC, datetime
from importlib.metadata import requires
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from packaging.requirements import Requirement
from places import place, psql
from test_estimate_rows import PROVENANCE, SPANS, staging

from anyecg_ray import schema, storage
from anyecg_ray.cli import main
from anyecg_ray.config import InputError, JobError
from anyecg_ray.estimate_rows import publishable
from anyecg_ray.warehouses import Sink, addresses, opened, without_secrets
from anyecg_ray.weights import untrained

__all__ = ["place"]  # a fixture

KEY = ["span_id", "indicator", "model_version"]


def published(spans, version="1", status=None, at=None):
    """Rows as delivery.py hands them over, one shard."""
    card = untrained("tiny", ["potassium_high", "calcium_low"], ["II"], "ecgfounder-finetune", 0).card
    rows = staging([(s, w, q, [None if v is None else v[:2] for v in values]) for s, w, q, values in spans])
    changes = {"model_version": version, "estimated_at": at or PROVENANCE["estimated_at"]}
    for name, value in changes.items():
        place = rows.column_names.index(name)
        rows = rows.set_column(place, schema.STAGING.field(name), pa.array([value] * len(rows), rows.column(name).type))
    out = publishable(rows, card)
    return out.append_column("shard", pa.array([0] * len(out), pa.int32()))


def test_a_commit_moves_rows_and_number_together(place):
    warehouse = place.open()
    assert warehouse.version("job") == 0
    warehouse.commit(published(SPANS), "job", 1, ["000000-000000"], replace=False)
    assert place.open().version("job") == 1
    assert place.open().version("another job") == 0
    rows = place.rows()
    assert len(rows) == 6
    assert not rows.duplicated(KEY).any()
    expected = published(SPANS).to_pandas().sort_values(KEY)
    got = rows.sort_values(KEY)
    assert got.probability.isna().tolist() == expected.probability.isna().tolist()
    assert got.probability.dropna().tolist() == pytest.approx(expected.probability.dropna().tolist(), abs=1e-7)
    assert got.status.tolist() == expected.status.tolist()
    assert [list(f) for f in got.quality_flags] == [list(f) for f in expected.quality_flags]
    assert {str(t)[:10] for t in got.ecg_time} == {"2291-03-01"}  # a year that nanoseconds do not reach


def test_rows_that_changed_give_way(place):
    warehouse = place.open()
    warehouse.commit(published(SPANS), "job", 1, ["000000-000000"], replace=False)
    mended = [SPANS[0], ("ok", [0], [""], [[0.5, 0.5, 0.0]]), SPANS[2]]
    warehouse.commit(published(mended), "job", 2, ["000000-000000"], replace=True)
    rows = place.rows()
    assert len(rows) == 6
    assert not rows.duplicated(KEY).any()
    assert rows.set_index("span_id").status["s1#0"].tolist() == ["ok", "ok"]
    assert place.open().version("job") == 2


def test_two_versions_stand_side_by_side_and_the_newest_can_be_asked_for(place):
    warehouse = place.open()
    warehouse.commit(published(SPANS), "one", 1, ["000000-000000"], replace=False)
    later = published(SPANS[:1], "2", at=datetime(2292, 1, 1, tzinfo=UTC))
    warehouse.commit(later, "two", 1, ["000000-000000"], replace=False)
    again = published(SPANS[:1], at=datetime(2293, 1, 1, tzinfo=UTC))  # a span of the older one, scored once more
    first = published(SPANS)
    others = first.filter(pc.not_equal(first.column("span_id"), "s0#0"))
    warehouse.commit(pa.concat_tables([again, others]), "one", 2, ["000000-000000"], replace=True)
    rows = place.rows()
    assert len(rows) == 8
    assert not rows.duplicated(KEY).any()
    if place.sink.kind == "postgres":
        latest = psql(place.sink.uri, "SELECT * FROM anyecg.ecg_lab_estimate_latest")
    else:
        with open(storage.join(place.out, f"ecg_lab_estimate_latest.{place.sink.kind}.sql")) as file:
            latest = duckdb_latest(rows, file.read())
    assert len(latest) == 6
    assert latest.set_index("span_id").model_version.to_dict() == {"s0#0": "2", "s1#0": "1", "s2#0": "1"}


def duckdb_latest(rows, text):
    ecg_lab_estimate = rows  # noqa: F841 - the query's name for it
    query = text[text.index("SELECT") :].replace("anyecg.ecg_lab_estimate", "ecg_lab_estimate")
    return duckdb.query(query).df()


@pytest.mark.parametrize("place", ["iceberg", "postgres"], indirect=True)
def test_a_commit_whose_answer_was_lost_is_not_made_twice(place):
    place.open().commit(published(SPANS), "job", 1, ["000000-000000"], replace=False)
    place.open().commit(published(SPANS), "job", 1, ["000000-000000"], replace=False)
    assert len(place.rows()) == 6


@pytest.mark.parametrize("place", ["delta"], indirect=True)
def test_two_writers_of_one_number_conflict(place):
    from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake

    place.open().commit(published(SPANS), "job", 1, ["000000-000000"], replace=False)
    behind = DeltaTable(place.open().where, version=0)
    place.open().commit(published(SPANS, "2"), "job", 2, ["000000-000001"], replace=False)
    rows = published(SPANS, "3").drop_columns("shard")
    rows = rows.append_column("estimated_date", rows.column("estimated_at").cast(pa.date32()))
    with pytest.raises(Exception, match=r"(?i)transaction|concurrent"):
        write_deltalake(
            behind,
            rows,
            mode="append",
            commit_properties=CommitProperties(app_transactions=[Transaction("anyecg/job", 2)]),
        )
    assert len(place.rows()) == 12


def test_a_new_column_of_a_later_version_evolves_the_table(place, monkeypatch):
    from anyecg_ray.warehouses import delta, iceberg, postgres

    fewer = pa.schema([f for f in schema.ECG_LAB_ESTIMATE if f.name != "lower"])
    rows = published(SPANS)
    with monkeypatch.context() as patch:
        for module in (iceberg, postgres):
            patch.setattr(module, "ECG_LAB_ESTIMATE", fewer)
        patch.setattr(postgres, "COLUMNS", ", ".join(fewer.names))
        place.open().commit(rows.drop_columns("lower"), "job", 1, ["000000-000000"], replace=False)
    assert delta  # writes whatever columns there are
    place.open().commit(published(SPANS, "2"), "job", 2, ["000000-000001"], replace=False)
    after = place.rows()
    assert "lower" in after.columns
    assert len(after) == 12


def test_what_lies_there_already_is_not_written_into(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file.txt").write_text("mine")
    with pytest.raises(InputError, match="holds files that are no Delta table"):
        opened(Sink(kind="delta", uri=str(tmp_path / "other")), str(tmp_path))
    opened(Sink(kind="delta"), str(tmp_path)).commit(published(SPANS), "job", 1, ["s"], replace=False)
    with pytest.raises(InputError, match="is a Delta table"):
        opened(Sink(), str(tmp_path))


@pytest.mark.parametrize(
    ("sink", "what"),
    [
        ({"kind": "iceberg", "uri": "ftp://x"}, "setting sink.uri: ftp://x; give http"),
        ({"kind": "postgres", "uri": "postgresql://127.0.0.1:1/db"}, "cannot open it"),
        ({"kind": "iceberg", "uri": "http://127.0.0.1:1"}, "cannot open it"),
        ({"table": "estimates"}, "give namespace.table"),
    ],
)
def test_a_sink_that_cannot_be_used_is_one_line(tmp_path, sink, what):
    with pytest.raises(InputError, match=what) as error:
        opened(Sink(**sink), str(tmp_path))
    assert "pw" not in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "uri",
    [
        "postgresql://me:hunter2@host/db",
        "postgresql://me:hun/ter2@host/db",
        "postgresql+psycopg2://me:hunter2@host/db",
        "postgresql://host/db?pass%77ord=hunter2",
        "postgresql://host/db?user=me&sslpassword=hunter2",
        "host=h password=hunter2",
        "host = h password = 'hunter2 hunter2'",
        "https://me:hunter2@catalog/api",
        "https://catalog/api?access_token=hunter2",
    ],
)
def test_a_secret_in_an_address_is_refused_and_not_repeated(uri, monkeypatch, capsys):
    for kind in ("postgres", "iceberg", "parquet"):
        for given in ({"uri": uri}, {"properties": {"uri": uri}}):
            with pytest.raises(InputError, match="holds a password") as error:
                Sink(kind=kind, **given)
            assert "ter2" not in str(error.value)
    line = ["publish", "--out", "o", "--bundle", "b", "--sink.kind", "postgres"]
    assert main([*line, "--sink.uri", uri]) == 2
    assert main([*line, "--sink", uri]) == 2  # misspelt
    assert main(["submit", *line, "--sink.uri", uri]) == 2
    told = capsys.readouterr()
    assert "ter2" not in told.out + told.err


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("postgresql://me@host:5432/db?sslmode=require&passfile=/me/pgpass", "postgresql://host:5432/db"),
        ("host = h user=me dbname='my db' passfile=/me/pgpass", "host=h dbname='my db'"),
        ("service=research", "service=research"),
        ("https://catalog/secret/x@y?region=1", "https://catalog/secret/x@y"),
        ("sqlite:////home/me@work/catalog.db", "sqlite:////home/me@work/catalog.db"),
        ("postgresql://", "postgresql://"),
        ("glue://", "glue://"),
    ],
)
def test_people_see_where_an_address_is_and_not_whose(uri, shown):
    assert addresses.shown(uri) == shown
    assert without_secrets({"sink": Sink(kind="postgres", uri=uri).model_dump()})["sink"]["uri"] == shown


def test_a_table_in_a_folder_named_like_a_parameter_is_a_folder():
    sink = Sink(uri="/mnt/tokens/run=1/table")
    assert without_secrets({"sink": sink.model_dump()})["sink"]["uri"] == sink.uri


def test_only_properties_that_are_known_to_be_no_secret_are_written_down():
    secret = ("token", "s3.secret-access-key", "header.Authorization", "adls.account-key", "AZURE_STORAGE_ACCOUNT_KEY")
    sink = Sink(
        kind="iceberg",
        properties={name: "hunter2" for name in (*secret, "of.tomorrow")}
        | {"warehouse": "w", "s3.endpoint": "http://me:hunter2@h:9000", "uri": "https://me@catalog/api?x=1"},
    )
    shown = without_secrets({"sink": sink.model_dump()})["sink"]["properties"]
    assert {v for k, v in shown.items() if k in (*secret, "of.tomorrow")} == {"…"}
    assert shown["warehouse"] == "w"
    assert shown["s3.endpoint"] == "http://h:9000"
    assert shown["uri"] == "https://catalog/api"


@pytest.mark.parametrize(
    "said",
    [
        "Header part ('Bearer hunter2hunter2') from ('Authorization') must be of type str",
        'cannot parse "postgresql+psycopg2://me:other@h/d"',
        "bad option password = other in the connection string",
        '{"client_secret": "other"}',
        "Authorization: Bearer other",
        "x" * 190 + "hunter2hunter2",
        "the variable says fromtheenvironment",
    ],
)
def test_what_a_library_says_is_told_without_secrets(said, monkeypatch):
    monkeypatch.setenv("PYICEBERG_CATALOG__ANYECG__TOKEN", "fromtheenvironment")
    text = addresses.line(ValueError(said), {"header.Authorization": "Bearer hunter2hunter2"})
    assert not [word for word in ("hunter", "other@", "other in", '"other"', "Bearer other", "fromthe") if word in text]
    assert text.startswith("ValueError: ")


def test_an_iceberg_catalog_s_errors_and_place_hold_no_secret(tmp_path):
    sink = Sink(kind="iceberg", uri="http://me@127.0.0.1:1/api", properties={"header.X": "hunter2hunter2\n"})
    with pytest.raises(InputError, match=r"in http://127\.0\.0\.1:1/api: cannot open it") as error:
        opened(sink, str(tmp_path))
    assert "hunter2" not in str(error.value)


def test_a_postgres_that_restarts_is_waited_for(postgres):
    uri = postgres("restart")
    warehouse = opened(Sink(kind="postgres", uri=uri), "unused")
    postgres.stop()
    starting = postgres.start_in(3)
    warehouse.commit(published(SPANS), "job", 1, ["s"], replace=False)
    starting.join()
    assert len(psql(uri, "SELECT * FROM anyecg.ecg_lab_estimate")) == 6


def test_a_postgres_that_stays_away_is_told(postgres, monkeypatch):
    from anyecg_ray.warehouses import postgres as module

    warehouse = opened(Sink(kind="postgres", uri=postgres("away")), "unused")
    monkeypatch.setattr(module, "PATIENCE", 0)
    postgres.stop()
    try:
        with pytest.raises(JobError, match="run the same line again"):
            warehouse.commit(published(SPANS), "job", 1, ["s"], replace=False)
    finally:
        postgres.start()


def in_catalog(uri, tmp_path, warehouse):
    """Two commits to Iceberg by way of a catalog."""
    sink = Sink(kind="iceberg", uri=uri, warehouse=warehouse)
    for number, version in enumerate(("1", "2"), 1):
        opened(sink, str(tmp_path)).commit(published(SPANS, version), "job", number, ["s"], replace=False)
    return opened(sink, str(tmp_path)).version("job")


def test_the_extra_brings_what_the_catalogs_import():
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
    brought = {r.name: r for r in map(Requirement, project["optional-dependencies"]["warehouse"])}
    iceberg = brought["pyiceberg"]
    within = [r for r in map(Requirement, requires("pyiceberg")) if r.marker]
    brought |= {r.name: r for r in within for extra in iceberg.extras if r.marker.evaluate({"extra": extra})}
    assert {"boto3", "psycopg", "sqlalchemy"} <= set(brought)
    assert "binary" in brought["psycopg"].extras  # libpq with it
    assert not brought["sqlalchemy"].specifier.contains("2.0")  # whose postgresql:// means psycopg2


def test_a_catalog_in_postgres(postgres, tmp_path):
    assert in_catalog(postgres("catalog"), tmp_path, f"file://{tmp_path}/tables") == 2


def test_a_catalog_in_glue(s3_of_its_own, tmp_path):
    assert in_catalog("glue://", tmp_path, f"{s3_of_its_own}/tables") == 2


def test_a_catalog_in_hive_says_what_it_needs(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "hive_metastore", None)
    monkeypatch.delitem(sys.modules, "pyiceberg.catalog.hive", raising=False)
    with pytest.raises(InputError, match=r"pip install 'pyiceberg\[hive\]'") as error:
        opened(Sink(kind="iceberg", uri="thrift://127.0.0.1:1"), str(tmp_path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["iceberg", "delta", "parquet"])
def test_on_s3(kind, s3_of_its_own, tmp_path):
    uri = f"{s3_of_its_own}/{kind}"
    sink = (
        Sink(kind="iceberg", uri=f"sqlite:///{tmp_path}/catalog.db", warehouse=uri)
        if kind == "iceberg"
        else Sink(kind=kind, uri=uri)
    )
    opened(sink, str(tmp_path)).commit(published(SPANS), "job", 1, ["s"], replace=False)
    opened(sink, str(tmp_path)).commit(published(SPANS, "2"), "job", 2, ["s"], replace=False)
    assert opened(sink, str(tmp_path)).version("job") == 2

"""Tables in batches: by column, gzipped, beyond 2262, and with whatever people put into them."""

import gzip
from datetime import UTC, date, datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from anyecg_ray import storage, tables
from anyecg_ray.config import InputError
from anyecg_ray.schema import TIME


def whole(uri, required, optional=(), malformed=None):
    return pa.Table.from_batches(list(tables.batches(str(uri), required, optional, malformed)))


def test_columns_come_by_name_and_in_order(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,b,c\n1, x ,3\n4,,6\n")
    table = whole(path, ("c", "b"), ("d",))
    assert table.column_names == ["c", "b", "d"]
    assert table.to_pylist() == [{"c": "3", "b": "x", "d": None}, {"c": "6", "b": None, "d": None}]


def test_gzip_parquet_and_a_bucket_give_the_same(tmp_path, s3):
    text = "a,b\n1,x\n2,y\n"
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(text.encode()))
    pq.write_table(pa.table({"a": ["1", "2"], "b": ["x", "y"]}), tmp_path / "t.parquet")
    storage.write_atomic(f"{s3}/t.csv", text.encode())
    expected = [{"a": "1", "b": "x"}, {"a": "2", "b": "y"}]
    for uri in (tmp_path / "t.csv.gz", tmp_path / "t.parquet", f"{s3}/t.csv"):
        assert whole(uri, ("a", "b")).to_pylist() == expected


def test_a_big_table_comes_in_many_batches(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "BLOCK", 1 << 16)
    path = tmp_path / "t.csv.gz"
    path.write_bytes(gzip.compress(("a,b\n" + "".join(f"{i},text\n" for i in range(50000))).encode()))
    batches = list(tables.batches(str(path), ("a",)))
    assert len(batches) > 5
    assert max(len(b) for b in batches) < 20000
    assert pa.Table.from_batches(batches)["a"].to_pylist() == [str(i) for i in range(50000)]


def test_quotes_hold_commas_and_line_breaks(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('a,b\n"BILIRUBIN, TOTAL","x\ny"\n2,z\n')
    assert whole(path, ("a", "b"))["b"].to_pylist() == ["x\ny", "z"]


def test_a_byte_order_mark_and_odd_bytes_do_no_harm(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes("\ufeffa,b\n1,µmol/L\n".encode() + b"2,\xb5mol/L\n")
    assert whole(path, ("a", "b")).to_pylist() == [{"a": "1", "b": "µmol/L"}, {"a": "2", "b": "\ufffdmol/L"}]


def test_lines_with_too_many_or_too_few_cells_are_told_apart(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,b\n1,x\n2\n3,y,z\n4,w\n")
    malformed: list[str] = []
    assert whole(path, ("a",), (), malformed)["a"].to_pylist() == ["1", "4"]
    assert malformed == ["2", "3,y,z"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty; its first line must name the columns"),
        (b"value,untis\n1,2\n", "no column unit; rename column untis to unit"),
        (b"value,other\n1,2\n", "no column unit; its first line must name the columns"),
        (b'unit,value\n1,"2\n' + b"3,4\n" * 5000, "look for a quote left open"),
        (b'unit,value\n1,"2\n' + b"3,4\n" * 50000, "not a readable CSV file"),
    ],
)
def test_a_table_that_cannot_be_read_is_told_in_one_line(tmp_path, monkeypatch, content, message):
    monkeypatch.setattr(tables, "BLOCK", 1 << 16)
    path = tmp_path / "labels.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as told:
        whole(path, ("unit", "value"))
    assert str(path) in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("name", ["t.csv.gz", "t.parquet"])
def test_a_broken_file_is_told_in_one_line(tmp_path, name):
    good = gzip.compress(b"a\n" + b"".join(b"%d\n" % (i * 7919) for i in range(200000)))
    (tmp_path / name).write_bytes(good[: len(good) // 2] if name.endswith("gz") else b"not parquet")
    with pytest.raises(InputError, match=f"{name}: .*"):
        whole(tmp_path / name, ("a",))


def test_a_missing_table_is_told_with_its_folder(tmp_path):
    with pytest.raises(InputError, match=r"no visits\.csv here; give the folder"):
        tables.locate([str(tmp_path)], "visits.csv")


def test_identifiers_lose_the_decimals_that_spreadsheets_add():
    assert tables.identifiers(pa.array(["99000123.0", " 7", "A1.0", None])).to_pylist() == [
        "99000123",
        "7",
        "A1.0",
        None,
    ]
    assert tables.identifiers(pa.array([99000123.0, None])).to_pylist() == ["99000123", None]


def test_numbers_are_nan_where_there_are_none():
    np.testing.assert_array_equal(
        tables.numbers(pa.array(["1.5", "", None, "x", "1,200"])), [1.5, np.nan, np.nan, np.nan, 1200]
    )
    np.testing.assert_array_equal(tables.numbers(pa.array([1, None])), [1, np.nan])


def test_dates_beyond_2262_stay_what_they_are():
    texts = ["2295-12-31T23:59:59.123Z", "2262-04-12 00:00:00", "2205-03-01", None, "", "2300-01-01T00:00:00+02:00"]
    read, bad = tables.times(pa.array(texts))
    assert read.type == TIME
    assert read.to_pylist() == [
        datetime(2295, 12, 31, 23, 59, 59, 123000, tzinfo=UTC),
        datetime(2262, 4, 12, tzinfo=UTC),
        datetime(2205, 3, 1, tzinfo=UTC),
        None,
        None,
        datetime(2299, 12, 31, 22, tzinfo=UTC),
    ]
    assert not bad.any()


def test_a_time_that_cannot_be_read_is_marked_and_spoils_no_other():
    read, bad = tables.times(pa.array(["2205-02-30T00:00:00Z", "2205-03-01T00:00:00Z", "01/02/2023", "soon", None]))
    assert bad.tolist() == [True, False, True, True, False]
    assert read.to_pylist() == [None, datetime(2205, 3, 1, tzinfo=UTC), None, None, None]


def test_times_of_parquet_keep_their_zone():
    moment = datetime(2270, 1, 2, 3, 4, 5, tzinfo=UTC)
    for kind in (pa.timestamp("us"), pa.timestamp("ms"), pa.timestamp("us", tz="America/Los_Angeles")):
        column = pa.array([moment if kind.tz else moment.replace(tzinfo=None), None], kind)
        assert tables.times(column)[0].to_pylist() == [moment, None]
    assert tables.times(pa.array([date(2270, 1, 2)]))[0].to_pylist() == [datetime(2270, 1, 2, tzinfo=UTC)]
    assert tables.times(pa.array([1700000000]))[1].tolist() == [True]

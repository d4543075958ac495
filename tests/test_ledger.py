"""A shard is done when its staging file is there, and not a moment sooner."""

import os
from pathlib import Path

import pyarrow as pa
import pytest
from test_estimate_rows import SPANS, staging

from anyecg_ray import schema, storage
from anyecg_ray.config import InputError
from anyecg_ray.ledger import Ledger

JOB = {"shard_spans": 10, "row_groups": ["a", "b"]}


@pytest.fixture
def card():
    return "potassium", "1"


def opened(folder, card):
    book = Ledger(str(folder), *card)
    book.claim(JOB)
    return book


def test_commit_done_and_counts(tmp_path, card):
    book = opened(tmp_path, card)
    assert book.done() == set()
    book.stage("000000-000000", staging(SPANS))
    book.stage("000000-000003", staging(SPANS[:1]))
    again = opened(tmp_path, card)
    assert again.done() == {"000000-000000", "000000-000003"}
    assert again.counts() == book.counts() == {"ok": 2, "flat": 1, "missing_signal": 1}
    book.save_tally()
    for part in tmp_path.rglob("part-*.parquet"):
        part.write_bytes(b"")  # whoever reads the tally need not open it
    assert opened(tmp_path, card).counts() == again.counts()


def test_a_manifest_that_grew_is_remembered(tmp_path, card):
    """Else an older manifest could come back, grow otherwise, and shards of other records would count as done."""
    opened(tmp_path, card)
    book = Ledger(str(tmp_path), *card)
    book.claim(JOB | {"row_groups": ["a", "b", "c"]})
    for other in (["a", "b"], ["a", "b", "d"]):
        with pytest.raises(InputError, match="a back-fill whose manifest differs"):
            Ledger(str(tmp_path), *card).claim(JOB | {"row_groups": other})
    again = Ledger(str(tmp_path), *card)
    again.claim(JOB | {"row_groups": ["a", "b", "c", "d"]})
    assert again.job["id"] == book.job["id"]


@pytest.mark.parametrize("writes", [1, 2])
def test_a_crash_while_a_shard_changes_scores_it_again(tmp_path, card, monkeypatch, writes):
    first = opened(tmp_path, card)
    first.stage("000000-000000", staging([("transient", [], [], []), *SPANS[1:]]))
    book, done = opened(tmp_path, card), []
    assert book.again("000000-000000") == ["s0#0"]

    def dies(*arguments):
        done.append(arguments)
        if len(done) == writes:
            raise KeyboardInterrupt
        return whole(*arguments)

    # 1: the rows are written, the number of the change is not; 2: that is written, the old mark is still there
    name = "write_atomic" if writes == 1 else "remove"
    whole = getattr(storage, name)
    monkeypatch.setattr(storage, name, dies if writes == 1 else lambda *a: (done.append(a), dies(*a)))
    with pytest.raises(KeyboardInterrupt):
        book.stage("000000-000000", staging(SPANS[:1]))
    monkeypatch.undo()
    after = opened(tmp_path, card)
    assert after.done() == set()
    assert after.again("000000-000000") == []  # every span has an estimate by now
    after.stage("000000-000000", schema.STAGING.empty_table())
    assert opened(tmp_path, card).done() == {"000000-000000"}
    assert opened(tmp_path, card).staged()["000000-000000"] > 0  # warehouses see that it changed
    assert after.counts() == {"ok": 1, "flat": 1, "missing_signal": 1}


def test_only_what_was_asked_for_is_scored_again(tmp_path, card):
    book = opened(tmp_path, card)
    book.stage("000000-000000", staging(SPANS))
    book.stage("000000-000003", staging(SPANS[:1]))
    assert book.ask_again({"missing_signal", "flat"}) == 2
    after = opened(tmp_path, card)  # the wish outlives a crash
    assert after.done() == {"000000-000003"}
    assert after.again("000000-000000") == ["s1#0", "s2#0"]
    rows = staging(SPANS).slice(1, 2)
    after.stage("000000-000000", rows.set_column(6, "status", pa.array(["ok", "ok"])))
    assert after.counts() == {"ok": 4}
    assert after.rows("000000-000000").column("span_id").to_pylist() == ["s0#0", "s1#0", "s2#0"]
    assert opened(tmp_path, card).done() == {"000000-000000", "000000-000003"}


@pytest.mark.parametrize(
    ("job", "told"),
    [
        ({"shard_spans": 11, "row_groups": ["a", "b"]}, "shard_spans differ"),
        ({"shard_spans": 10, "row_groups": ["x", "b"]}, "manifest differ"),
        ({"shard_spans": 10, "row_groups": ["a"]}, "manifest differ"),
    ],
)
def test_another_job_at_the_same_place_is_refused(tmp_path, card, job, told):
    Ledger(str(tmp_path), *card).claim(JOB)
    with pytest.raises(InputError, match=told):
        Ledger(str(tmp_path), *card).claim(job)


def test_the_same_job_and_a_longer_manifest_go_on(tmp_path, card):
    Ledger(str(tmp_path), *card).claim(JOB)
    Ledger(str(tmp_path), *card).claim(JOB)
    Ledger(str(tmp_path), *card).claim(JOB | {"row_groups": ["a", "b", "c"]})


def test_what_lies_beside_the_parts_does_not_count(tmp_path, card):
    book = opened(tmp_path, card)
    half = Path(book.staging, ".part-000000-000000.parquet.1a2b3c4d.tmp")
    half.write_bytes(b"half")
    os.utime(half, (0, 0))  # younger ones may still be written
    book.refresh()
    assert book.done() == set()
    assert book.counts() == {}
    assert [p.name for p in opened(tmp_path, card) and Path(book.staging).iterdir()] == ["_job.json"]

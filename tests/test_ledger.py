"""A shard is done when its staging file is there, and not a moment sooner."""

import pyarrow.parquet as pq
import pytest
from test_publish import SPANS, staging

from anyecg_ray import ledger, storage
from anyecg_ray.config import InputError
from anyecg_ray.ledger import Ledger
from anyecg_ray.weights import untrained

JOB = {"shard_spans": 10, "row_groups": ["a", "b"]}


@pytest.fixture
def card():
    indicators = ["potassium_high", "potassium_value"]
    return untrained("tiny", indicators, ["II"], "ecgfounder-finetune", 0).card


def test_commit_done_and_counts(tmp_path, card):
    book = Ledger(str(tmp_path), card)
    assert book.done() == set()
    book.commit("000000-000000", staging(SPANS))
    book.commit("000000-000003", staging(SPANS[:1]))
    assert Ledger(str(tmp_path), card).done() == {"000000-000000", "000000-000003"}
    assert book.counts() == {"ok": 2, "flat": 1, "missing_signal": 1}
    book.commit("000000-000000", staging(SPANS))  # again: the same file, not another
    assert book.counts().total() == 4
    assert len(pq.read_table(book.table)) == 8


@pytest.mark.parametrize("writes", [0, 1])
def test_a_crash_between_the_two_files_leaves_the_shard_undone(tmp_path, card, monkeypatch, writes):
    book, written = Ledger(str(tmp_path), card), []

    def write(uri, rows):
        if len(written) == writes:
            raise KeyboardInterrupt
        written.append(uri)
        Ledger_write(uri, rows)

    Ledger_write = Ledger._write
    monkeypatch.setattr(ledger.Ledger, "_write", staticmethod(write))
    with pytest.raises(KeyboardInterrupt):
        book.commit("000000-000000", staging(SPANS))
    assert book.done() == set()
    monkeypatch.undo()
    book.commit("000000-000000", staging(SPANS))
    assert book.done() == {"000000-000000"}
    assert len(pq.read_table(book.table)) == 6


def test_a_shard_in_which_storage_failed_is_not_done_until_it_did_not(tmp_path, card):
    failed = staging([("transient", [], [], []), *SPANS])
    book = Ledger(str(tmp_path), card)
    book.commit("000000-000000", failed)
    assert book.counts()["transient"] == 1
    again = Ledger(str(tmp_path), card)
    assert again.done() == set()
    again.commit("000000-000000", staging([*SPANS, SPANS[0]]))
    assert Ledger(str(tmp_path), card).done() == {"000000-000000"}
    assert again.counts() == {"ok": 2, "flat": 1, "missing_signal": 1}


@pytest.mark.parametrize(
    ("job", "told"),
    [
        ({"shard_spans": 11, "row_groups": ["a", "b"]}, "shard_spans differ"),
        ({"shard_spans": 10, "row_groups": ["x", "b"]}, "manifest differ"),
        ({"shard_spans": 10, "row_groups": ["a"]}, "manifest differ"),
    ],
)
def test_another_job_at_the_same_place_is_refused(tmp_path, card, job, told):
    Ledger(str(tmp_path), card).claim(JOB)
    with pytest.raises(InputError, match=told):
        Ledger(str(tmp_path), card).claim(job)


def test_the_same_job_and_a_longer_manifest_go_on(tmp_path, card):
    Ledger(str(tmp_path), card).claim(JOB)
    Ledger(str(tmp_path), card).claim(JOB)
    Ledger(str(tmp_path), card).claim(JOB | {"row_groups": ["a", "b", "c"]})


def test_what_lies_beside_the_parts_does_not_count(tmp_path, card):
    book = Ledger(str(tmp_path), card)
    book.claim(JOB)
    storage.write_atomic(storage.join(book.staging, "part-000000-000000.parquet.1a2b3c4d.tmp"), b"half")
    assert book.done() == set()
    assert book.counts() == {}

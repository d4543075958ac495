"""Scored shards reach a warehouse once each: few commits, each key once, whatever waited, changed or came between."""

import threading
import time
from contextlib import nullcontext, suppress
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import pyarrow as pa
import pytest
from places import made, place
from test_estimate_rows import SPANS, staging
from test_warehouses import KEY, published

from anyecg_ray import storage, telemetry
from anyecg_ray.config import InputError, JobError
from anyecg_ray.delivery import Delivery
from anyecg_ray.lease import Lease
from anyecg_ray.ledger import Ledger
from anyecg_ray.sigterm import Terminated
from anyecg_ray.warehouses import Sink, opened
from anyecg_ray.weights import untrained

__all__ = ["place"]  # a fixture

CARD = untrained("tiny", ["potassium_high"], ["II"], "ecgfounder-finetune", 0).card
JOB = {"shard_spans": 3, "row_groups": ["a"], "granularity": "span"}
FAILED = [("transient", [], [], []), *SPANS[1:]]


def one_value(spans):
    return [(s, w, q, [None if v is None else v[:1] for v in values]) for s, w, q, values in spans]


def rows_of(shard, spans=SPANS):
    """A shard's staged rows; each shard has spans of its own."""
    rows = staging(one_value(spans))
    return rows.set_column(0, rows.schema.field(0), pa.array([f"{shard}#{i}" for i in range(len(rows))], pa.string()))


class Scored:
    """The staging side of a back-fill, and deliveries from it."""

    def __init__(self, out):
        self.ledger = Ledger(str(out), "m", "1")
        self.ledger.claim(JOB)

    def stage(self, shard, spans=SPANS):
        return self.ledger.stage(shard, rows_of(shard, spans))

    def delivery(self, warehouse, every=1000.0):
        return Delivery(self.ledger, warehouse, CARD, every, Lease(self.ledger.staging, {}))


@pytest.fixture
def scored(place, monkeypatch):
    monkeypatch.setattr(Lease, "check", lambda self: None)
    return Scored(place.out)


def until(warehouse, happens):
    """The warehouse, whose next commit is preceded by something."""
    whole = warehouse.commit

    def commit(*given):
        warehouse.commit = whole
        happens()
        whole(*given)

    warehouse.commit = commit
    return warehouse


def killed():
    raise KeyboardInterrupt


def counted(warehouse):
    """The warehouse, and a list of the shards and the way of each commit that it was asked for."""
    asked, whole = [], warehouse.commit

    def commit(rows, job, version, shards, replace):
        asked.append((shards, replace))
        whole(rows, job, version, shards, replace)

    warehouse.commit = commit
    return warehouse, asked


def test_a_shard_is_committed_once(scored, place):
    warehouse, asked = counted(place.open())
    for shards in (["a", "b"], ["c"]):
        with scored.delivery(warehouse) as delivery:
            for shard in shards:
                delivery.add(shard, scored.stage(shard))
    assert asked == [(["a", "b"], False), (["c"], False)]
    assert len(place.rows()) == 9


def test_a_commits_seconds_are_counted_in_the_thread_that_shuts_ray_down(scored, place, monkeypatch):
    counted = []
    monkeypatch.setattr(telemetry, "_add", lambda *told: counted.append((threading.current_thread(), *told[1:])))
    with scored.delivery(place.open()) as delivery:
        delivery.add("a", scored.stage("a"))
    ((thread, seconds, tags),) = counted
    assert thread is threading.main_thread()
    assert seconds > 0
    assert tags == {"stage": "commit"}


def test_a_shard_that_waits_and_changes_is_carried_as_it_is_now(scored, place):
    """An earlier run staged it and was killed; this one scores a span of it again, and another shard besides."""
    scored.stage("a", FAILED)
    with scored.delivery(place.open()) as delivery:
        delivery.catch_up()
        delivery.add("a", scored.stage("a"))
        delivery.add("b", scored.stage("b"))
    rows = place.rows()
    assert not rows.duplicated(KEY).any()
    assert sorted(rows.status) == sorted([s[0] for s in SPANS] * 2)
    assert scored.delivery(place.open()).waiting() == []


def test_a_shard_that_changes_after_its_commit_replaces_its_rows(scored, place):
    scored.stage("a", FAILED)
    warehouse, asked = counted(place.open())
    with scored.delivery(warehouse) as delivery:
        delivery.catch_up()
        delivery.flush()
        delivery.add("a", scored.stage("a"))
        delivery.add("b", scored.stage("b"))
    assert asked == [(["a"], False), (["b"], False), (["a"], True)]
    assert sorted(place.rows().status) == sorted([s[0] for s in SPANS] * 2)


@pytest.mark.parametrize("place", ["iceberg", "delta", "postgres"], indirect=True)
def test_two_jobs_of_one_model_in_one_table_give_way_to_each_other(place):
    for job, number in (("one", 1), ("two", 1), ("one", 2), ("two", 2)):
        place.open().commit(published(SPANS), job, number, [f"{number}"], replace=False)
        rows = place.rows()
        assert len(rows) == 6
        assert not rows.duplicated(KEY).any()
    place.open().commit(published(SPANS, "2"), "three", 1, ["1"], replace=False)
    assert len(place.rows()) == 12


@pytest.mark.parametrize("place", ["parquet"], indirect=True)
def test_files_cannot_give_way_and_a_second_job_is_refused(place):
    place.open().commit(published(SPANS), "one", 1, ["1"], replace=False)
    with pytest.raises(InputError, match=r"from another back-fill.*--sink\.uri"):
        place.open().commit(published(SPANS), "two", 1, ["1"], replace=False)
    place.open().commit(published(SPANS, "2"), "two", 1, ["1"], replace=False)
    place.open().commit(published(SPANS[:1]), "one", 2, ["2"], replace=False)
    assert len(place.rows()) == 14  # the job's own shards are disjoint, that is the ledger's part


@pytest.mark.parametrize("place", ["iceberg", "delta", "postgres"], indirect=True)
def test_a_number_that_another_driver_took_is_not_believed(place):
    place.open().commit(published(SPANS), "job", 1, ["a"], replace=False)
    place.open().commit(published(SPANS), "job", 1, ["a"], replace=False)  # the answer was lost
    assert len(place.rows()) == 6
    with pytest.raises(JobError, match=r"another driver of this job made its commit 1; run the same line again"):
        place.open().commit(published(SPANS), "job", 1, ["b"], replace=False)
    assert len(place.rows()) == 6


def delivered(scored, place):
    """What a driver that comes later brings into the warehouse, and leaves waiting."""
    with scored.delivery(place.open()) as later:
        later.catch_up()
    return sorted(place.rows().span_id.unique()), scored.delivery(place.open()).waiting()


def test_a_commit_that_was_announced_and_not_made_is_made_by_the_next_driver(scored, place):
    with pytest.raises(KeyboardInterrupt), scored.delivery(until(place.open(), killed)) as delivery:
        delivery.add("a", scored.stage("a"))
    scored.stage("b")
    warehouse, asked = counted(place.open())
    with scored.delivery(warehouse) as later:
        later.catch_up()
    assert asked == [(["a"], False), (["b"], False)]
    assert len(place.rows()) == 6


@pytest.mark.parametrize("more", [[], ["b"]])
def test_a_driver_that_was_stopped_within_its_commit_loses_nothing(scored, place, more):
    """Another took over meanwhile and made the announced commit, and one more; then the first one's comes, too late."""
    scored.stage("a")

    def another():
        for shard in more:
            scored.stage(shard)
        delivered(scored, place)

    # where the warehouse's last commit is another by now, it may be too long ago to be found
    with suppress(JobError) if more else nullcontext(), scored.delivery(until(place.open(), another)) as delivery:
        delivery.catch_up()
    shards = ["a", *more]
    assert delivered(scored, place) == (sorted(f"{s}#{i}" for s in shards for i in range(len(SPANS))), [])
    assert not place.rows().duplicated(KEY).any()


def test_a_driver_that_was_stopped_before_it_announced_a_commit_writes_over_no_other(scored, place):
    late = scored.delivery(place.open())
    scored.stage("a")
    late.catch_up()
    scored.stage("b")
    delivered(scored, place)
    with pytest.raises(JobError, match="announced commit 1; run the same line again"):
        late.__exit__(None, None, None)
    assert delivered(scored, place)[1] == []
    assert len(place.rows()) == 6


def test_where_an_entry_is_gone_what_is_staged_replaces_what_is_there(scored, place, capsys):
    with scored.delivery(place.open()) as delivery:
        delivery.add("a", scored.stage("a"))
    for entry in Path(scored.ledger.delivered).rglob("*.json"):
        entry.unlink()
    scored.stage("b")
    assert delivered(scored, place)[1] == []
    assert "00000001.json: gone; what is staged replaces" in capsys.readouterr().err
    assert len(place.rows()) == 6
    assert not place.rows().duplicated(KEY).any()


@pytest.mark.parametrize("place", ["parquet", "delta"], indirect=True)
def test_an_output_that_was_moved_goes_on(place, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Lease, "check", lambda self: None)
    scored = Scored(place.out)
    with scored.delivery(place.open()) as delivery:
        delivery.add("a", scored.stage("a"))
    Path(place.out).rename(tmp_path / "moved")
    scored = Scored(tmp_path / "moved")
    delivery = scored.delivery(opened(place.sink, str(tmp_path / "moved")))
    assert (delivery.waiting(), list(delivery.sent)) == ([], ["a"])
    assert capsys.readouterr().err == ""


def test_two_databases_at_one_address_are_two_warehouses(request, postgres, tmp_path, monkeypatch):
    """What libpq's environment says is not what the address says."""
    monkeypatch.setattr(Lease, "check", lambda self: None)
    scored = Scored(tmp_path)
    scored.stage("a")
    for name in ("one", "two"):
        uri = urlsplit(postgres(f"environment_{name}"))
        for key, value in {"PGDATABASE": uri.path[1:], "PGUSER": uri.username, **dict(parse_qsl(uri.query))}.items():
            monkeypatch.setenv({"host": "PGHOST", "port": "PGPORT"}.get(key, key), value or "")
        warehouse = opened(Sink(kind="postgres"), str(tmp_path))
        assert scored.delivery(warehouse).waiting() == ["a"]
        with scored.delivery(warehouse) as delivery:
            delivery.catch_up()
        assert scored.delivery(opened(Sink(kind="postgres"), str(tmp_path))).waiting() == []


@pytest.mark.parametrize("place", ["iceberg", "delta", "postgres"], indirect=True)
def test_what_was_deleted_from_the_table_does_not_come_back_with_its_shard(scored, place):
    """A shard's transient span is scored again in a later run; the others are as they were."""
    first = rows_of("a", FAILED)
    with scored.delivery(place.open()) as delivery:
        delivery.add("a", scored.ledger.stage("a", first))
    again = rows_of("a").slice(0, 1)
    again = again.set_column(again.schema.get_field_index("run_id"), "run_id", pa.array(["later"]))
    warehouse, asked = place.open(), []
    warehouse.commit = lambda rows, *_: asked.append(rows.column("span_id").unique().to_pylist())
    with scored.delivery(warehouse) as delivery:
        delivery.add("a", scored.ledger.stage("a", again))
    assert asked == [["a#0"]]


@pytest.mark.parametrize("place", ["parquet"], indirect=True)
def test_a_job_that_was_killed_in_its_first_commit_has_left_files(place):
    place.open().commit(published(SPANS), "one", 1, ["1"], replace=False)
    storage.remove(f"{place.out}/ecg_lab_estimate/_delivered-one.json")  # it is written last
    with pytest.raises(InputError, match="from another back-fill"):
        place.open().commit(published(SPANS), "two", 1, ["1"], replace=False)


@pytest.mark.parametrize("kind", ["iceberg", "delta"])
def test_two_jobs_that_begin_a_table_in_one_moment(kind, request, tmp_path):
    place = made(kind, str(tmp_path / "out"), request)
    both, failed = [place.open(), place.open()], []
    together = threading.Barrier(2)

    def write(job):
        together.wait()
        try:
            both[job].commit(published(SPANS), f"job {job}", 1, ["1"], replace=False)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(job,)) for job in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    rows = place.rows()
    assert len(rows) == 6
    assert not rows.duplicated(KEY).any()


def test_two_writers_at_once_of_one_delta_table(request, tmp_path):
    place = made("delta", str(tmp_path / "out"), request)
    place.open().commit(published(SPANS), "first", 1, ["0"], replace=False)
    failed = []

    def write(job):
        try:
            for number in range(1, 6):
                place.open().commit(published(SPANS), job, number, [f"{number}"], replace=False)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(job,)) for job in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert len(place.rows()) == 6


def test_a_job_that_is_asked_to_end_does_not_wait_for_a_warehouse_that_hangs(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Lease, "check", lambda self: None)
    monkeypatch.setattr("anyecg_ray.delivery.LAST_S", 0.2)
    scored, warehouse = Scored(tmp_path), opened(Sink(), str(tmp_path))
    warehouse.commit = lambda *a: time.sleep(30)
    began = time.monotonic()
    delivery = scored.delivery(warehouse)
    delivery.add("a", scored.stage("a"))
    delivery.__exit__(Terminated, Terminated(), None)
    assert time.monotonic() - began < 10
    assert "goes there with the next run" in capsys.readouterr().err


def test_a_driver_whose_job_was_written_over_in_the_same_moment_commits_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(Lease, "check", lambda self: None)
    scored = Scored(tmp_path)
    storage.remove(f"{scored.ledger.staging}/_job.json")
    Ledger(str(tmp_path), "m", "1").claim(JOB)
    with pytest.raises(JobError, match="in the same moment"), scored.delivery(opened(Sink(), str(tmp_path))) as d:
        d.add("a", scored.stage("a"))
    assert not (tmp_path / "ecg_lab_estimate" / "1").exists()

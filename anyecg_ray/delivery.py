"""Carry scored shards into a warehouse, each once, in numbered commits.

STAGING/_delivered/WAREHOUSE/00000012.json   what the 12th commit carries: shards, and which scoring of each

The file is written first, the warehouse's commit follows, and the number moves in the same step as the rows
(warehouses/). So the files up to the warehouse's own number are what it holds. A file beyond it announces a commit of
which nobody knows whether it is still under way, in a driver that was stopped or behind a slow network: it is never
written over, and the next driver begins with that very commit, which counts once whoever makes it. The same holds
whether rows come fresh from the pipeline or, later, from staging.
"""

import json
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType

import pyarrow as pa
import pyarrow.compute as pc

from anyecg_ray import storage, telemetry
from anyecg_ray.config import InputError, JobError, Location, Settings
from anyecg_ray.estimate_rows import Granularity, opened_job, publishable
from anyecg_ray.lease import Lease
from anyecg_ray.ledger import Ledger
from anyecg_ray.model import Card
from anyecg_ray.sigterm import Terminated
from anyecg_ray.warehouses import Sink, Warehouse, opened

ROWS = 500_000
"""Published rows that wait at most: some 100 MB."""

SHARDS = 500
"""Most shards in one commit, whose metadata holds their names."""

AT_ONCE = 32
"""Entries of the log that are read at once."""

LAST_S = 15.0
"""Seconds that a job that was asked to end may spend on its last commits; what they leave out stays in staging."""


class Publish(Settings):
    """Carry what a back-fill has staged into a warehouse: later, or into a second one."""

    out: Location
    """The --out of the back-fill."""

    bundle: Location
    """The model that it was scored with: it turns the network's outputs into estimates."""

    sink: Sink = Sink()
    """Where to."""


def publish(settings: Publish) -> int:
    """Commit every staged shard that the warehouse does not hold yet; returns how many there were."""
    ledger, card = opened_job(settings.out, settings.bundle)
    warehouse = opened(settings.sink, settings.out)
    with Lease(ledger.staging, {"verb": "publish"}) as lease:
        delivery = Delivery(ledger, warehouse, card, settings.sink.every, lease)
        waiting = delivery.waiting()
        with delivery:
            delivery.catch_up()
    print(f"{len(waiting):,} shards published to {warehouse.where}; {len(delivery.sent):,} are there")
    return len(waiting)


@dataclass
class _Shard:
    """Rows of schema.STAGING that wait for a commit."""

    version: int
    rows: pa.Table


@dataclass
class _Sent:
    """A shard that a warehouse holds: which scoring of it, and the runs whose rows went there."""

    version: int
    runs: list[str]


class Delivery:
    """Brings the shards of one job into one warehouse, and knows which it holds."""

    def __init__(self, ledger: Ledger, warehouse: Warehouse, card: Card, every: float, lease: Lease) -> None:
        self._ledger, self._warehouse, self._card, self._every, self._lease = ledger, warehouse, card, every, lease
        self._granularity: Granularity = ledger.job["granularity"]
        self._log = storage.join(ledger.delivered, warehouse.name)
        self._is_at(warehouse.version(ledger.job["id"]))
        self._unsure = False
        self.sent: dict[str, _Sent] = self._read_log()
        self._waiting: dict[str, _Shard] = {}
        self._since = time.monotonic()
        self._running: Future[float] | None = None

    def __enter__(self) -> "Delivery":
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        """Commit the rest and wait for it, for LAST_S seconds at most where the job was asked to end."""
        asked = kind is not None and issubclass(kind, (KeyboardInterrupt, Terminated))
        until = time.monotonic() + LAST_S if asked else None
        try:
            self.flush(until)
            self._wait(until)
        except TimeoutError:
            print(f"{self._warehouse.where} is slow: what it lacks goes there with the next run", file=sys.stderr)

    def waiting(self) -> list[str]:
        """Shards of the ledger whose latest rows the warehouse does not hold."""
        known = {name: sent.version for name, sent in self.sent.items()}
        return sorted(s for s, version in self._ledger.staged().items() if known.get(s) != version)

    def catch_up(self) -> None:
        """Commit what an earlier driver announced, and then whatever is staged and waits."""
        while (announced := self._announced()) is not None:
            self._finish(announced)
        for shard in self.waiting():
            self.add(shard, self._ledger.rows(shard))

    def add(self, shard: str, rows: pa.Table) -> None:
        """Take a shard's staged rows; they are committed within `every` seconds of steady work.

        Raises JobError where an earlier commit failed.
        """
        # rows that an earlier run left and that were scored again meanwhile give way: a key goes once into a commit
        self._waiting[shard] = _Shard(self._ledger.staged()[shard], rows)
        if self._many() or time.monotonic() - self._since >= self._every:
            self.flush()

    def flush(self, until: float | None = None) -> None:
        """Begin to commit what waits, in the background; one commit at a time.

        until: of time.monotonic(), how long it may wait for the commit before. Raises TimeoutError past it.
        """
        self._wait(until)
        some, self._waiting = self._waiting, {}
        self._since = time.monotonic()
        self._running = _in_thread(lambda: self._commit_all(some)) if some else None

    def _wait(self, until: float | None) -> None:
        if self._running is not None:
            seconds = self._running.result(None if until is None else max(0.0, until - time.monotonic()))
            telemetry.spent("commit", seconds)  # here and not beside: see telemetry.py
            self._running = None

    def _many(self) -> bool:
        units = sum(_units(shard.rows, self._granularity) for shard in self._waiting.values())
        return units * len(self._card.indicators) >= ROWS or len(self._waiting) >= SHARDS

    def _commit_all(self, shards: dict[str, _Shard]) -> None:
        # rows that may be there already take the longer way, so they go by themselves
        new = {name: shard for name, shard in shards.items() if not self._may_be_there(name)}
        changed = {name: shard for name, shard in shards.items() if name not in new}
        for some, replace in ((new, False), (changed, True)):
            if some:
                self._commit(some, replace)
        self._ledger.save_tally()

    def _may_be_there(self, shard: str) -> bool:
        return self._unsure or shard in self.sent

    def _commit(self, shards: dict[str, _Shard], replace: bool) -> None:
        self._lease.check()
        self._ledger.check()
        number = self._number + 1
        announced = {name: _Sent(shard.version, _runs(shard.rows)) for name, shard in shards.items()}
        if not storage.create(self._entry(number), _text(announced)) and self._read(number) != announced:
            raise JobError(
                f"{self._warehouse.where}: another driver announced commit {number}; run the same line again"
            )
        self._carry(number, announced, {name: shard.rows for name, shard in shards.items()}, replace)

    def _announced(self) -> dict[str, _Sent] | None:
        """The commit after the warehouse's last one, if an earlier driver wrote it down; None where none did."""
        entry = self._entry(self._number + 1)
        if not storage.exists(entry):
            return None
        if (found := self._read(self._number + 1)) is None:
            storage.remove(entry)  # half of one: its commit never began
        return found

    def _finish(self, announced: dict[str, _Sent]) -> None:
        """Make the commit, or find it made. A shard that changed since then goes as it is now, and once more later."""
        self._lease.check()
        try:
            rows = {name: self._ledger.rows(name) for name in announced}
        except storage.MissingObject as error:
            raise InputError(
                f"{error}, and a commit was announced with it; restore it, or remove {self._entry(self._number + 1)}"
            ) from None
        self._carry(self._number + 1, announced, rows, any(map(self._may_be_there, announced)))

    def _carry(self, number: int, announced: dict[str, _Sent], rows: dict[str, pa.Table], replace: bool) -> None:
        some = (self._published(self._unsent(name, rows[name])) for name in announced)
        table = pa.concat_tables(_numbered(i, part) for i, part in enumerate(some))
        self._warehouse.commit(table, self._ledger.job["id"], number, list(announced), replace)
        self._is_at(number)
        self.sent.update(announced)

    def _unsent(self, shard: str, rows: pa.Table) -> pa.Table:
        """Of a shard that is there already, what was scored since: what its owner deleted meanwhile stays deleted."""
        if self._warehouse.whole_shards or shard not in self.sent:
            return rows
        since = rows.filter(pc.invert(pc.is_in(rows.column("run_id"), pa.array(self.sent[shard].runs, pa.string()))))
        return since if len(since) else rows

    def _is_at(self, number: int) -> None:
        """The last entry of the log whose commit the warehouse holds; `anyecg status` tells by it what is there."""
        self._number = number
        self._lease.tell(delivered={self._warehouse.name: number})

    def _published(self, rows: pa.Table) -> pa.Table:
        return publishable(rows, self._card, self._granularity)

    def _entry(self, number: int) -> str:
        return storage.join(self._log, f"{number:08d}.json")

    def _read(self, number: int) -> dict[str, _Sent] | None:
        """An entry of the log; None where it is not there, or not whole."""
        try:
            return {name: _Sent(*sent) for name, sent in json.loads(storage.read_bytes(self._entry(number))).items()}
        except (storage.MissingObject, ValueError):
            return None

    def _read_log(self) -> dict[str, _Sent]:
        """What the warehouse holds. Where an entry is gone nobody knows, and what is staged goes there by key again."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            entries = list(pool.map(self._read, range(1, self._number + 1)))
        if None in entries:
            self._unsure = True
            gone = self._entry(entries.index(None) + 1)
            print(f"{gone}: gone; what is staged replaces what {self._warehouse.where} holds of it", file=sys.stderr)
        return {name: sent for entry in entries if entry for name, sent in entry.items()}


def _text(announced: dict[str, _Sent]) -> bytes:
    return json.dumps({name: [sent.version, sent.runs] for name, sent in announced.items()}).encode()


def _runs(rows: pa.Table) -> list[str]:
    return sorted(pc.unique(rows.column("run_id")).to_pylist())


def _in_thread(action: Callable[[], None]) -> "Future[float]":
    """The action in a thread that does not keep the process from ending; gives the seconds that it took."""
    future: Future[float] = Future()

    def run() -> None:
        started = time.perf_counter()
        try:
            action()
            future.set_result(time.perf_counter() - started)
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def _units(rows: pa.Table, granularity: Granularity) -> int:
    """How many spans or windows will be published."""
    return len(rows) if granularity == "span" else len(pc.list_flatten(rows.column("values")))


def _numbered(index: int, rows: pa.Table) -> pa.Table:
    return rows.append_column("shard", pa.array([index] * len(rows), pa.int32()))

"""Carry scored shards into a warehouse, each once, in numbered commits.

STAGING/_delivered/WAREHOUSE/00000012.json   what the 12th commit carries: shards, and which scoring of each

The file is written first, the warehouse's commit follows, and the number moves in the same step as the rows
(warehouses/). So the files up to the warehouse's own number are what it holds; a file beyond it was never committed
and is written again. The same holds whether rows come fresh from the pipeline or, later, from staging.
"""

import json
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa

from anyecg_ray import storage, telemetry
from anyecg_ray.config import InputError, Location, Settings
from anyecg_ray.lease import Lease
from anyecg_ray.ledger import Ledger
from anyecg_ray.model import Card, load
from anyecg_ray.publish import Granularity, publishable
from anyecg_ray.warehouses import Sink, Warehouse, opened

ROWS = 500_000
"""Published rows that wait at most: some 100 MB."""

SHARDS = 500
"""Shards of one commit at most: their names ride in it."""


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
    card = load(settings.bundle).card
    ledger = Ledger(settings.out, card.model_id, card.model_version)
    ledger.open()
    warehouse = opened(settings.sink, settings.out)
    with Lease(ledger.staging, {"verb": "publish"}) as lease:
        delivery = Delivery(ledger, warehouse, card, settings.sink.every, lease)
        waiting = delivery.waiting()
        delivery.catch_up()
        delivery.close()
    print(f"{len(waiting):,} shards published to {warehouse.where}; {len(delivery.sent):,} are there")
    return len(waiting)


@dataclass
class _Shard:
    """Rows of schema.STAGING that wait for a commit."""

    name: str
    version: int
    rows: pa.Table


class Delivery:
    """What one warehouse holds of one job, and the way there."""

    def __init__(self, ledger: Ledger, warehouse: Warehouse, card: Card, every: float, lease: Lease) -> None:
        self._ledger, self._warehouse, self._card, self._every, self._lease = ledger, warehouse, card, every, lease
        self._granularity: Granularity = ledger.job["granularity"]
        self._log = storage.join(ledger.delivered, warehouse.name)
        self._number = warehouse.version(ledger.job["id"])
        self.sent: dict[str, int] = self._read_log()
        self._waiting: list[_Shard] = []
        self._rows, self._since = 0, time.monotonic()
        self._pool = ThreadPoolExecutor(1)
        self._running: Future[None] | None = None

    def waiting(self) -> list[str]:
        """Shards of the ledger whose latest rows the warehouse does not hold."""
        return sorted(s for s, version in self._ledger.staged().items() if self.sent.get(s) != version)

    def catch_up(self) -> None:
        """Commit what is staged and waits."""
        for shard in self.waiting():
            self.add(shard, self._ledger.rows(shard))

    def add(self, shard: str, rows: pa.Table) -> None:
        """Take a shard's staged rows; they are committed within `every` seconds of steady work.

        Raises JobError where an earlier commit failed.
        """
        self._waiting.append(_Shard(shard, self._ledger.staged()[shard], rows))
        self._rows += len(rows) * len(self._card.indicators)
        if self._rows >= ROWS or len(self._waiting) >= SHARDS or time.monotonic() - self._since >= self._every:
            self.flush()

    def flush(self) -> None:
        """Commit what waits, beside whatever goes on; one commit at a time."""
        if self._running is not None:
            self._running.result()
        some, self._waiting = self._waiting, []
        self._rows, self._since = 0, time.monotonic()
        self._running = self._pool.submit(self._commit_all, some) if some else None

    def close(self) -> None:
        """Commit the rest and wait for it."""
        self.flush()
        if self._running is not None:
            self._running.result()
        self._pool.shutdown()

    def _commit_all(self, shards: list[_Shard]) -> None:
        # rows that may be there already take the longer way, so they go by themselves
        for replace in (False, True):
            if some := [s for s in shards if (s.name in self.sent) == replace]:
                self._commit(some, replace)
        self._ledger.save_tally()

    def _commit(self, shards: list[_Shard], replace: bool) -> None:
        self._lease.check()
        rows = pa.concat_tables(_numbered(i, self._published(s.rows)) for i, s in enumerate(shards))
        number = self._number + 1
        carried = {s.name: s.version for s in shards}
        storage.write_atomic(self._entry(number), json.dumps(carried).encode())
        with telemetry.stage("commit"):
            self._warehouse.commit(rows, self._ledger.job["id"], number, list(carried), replace)
        self._number = number
        self.sent.update(carried)

    def _published(self, rows: pa.Table) -> pa.Table:
        return publishable(rows, self._card, self._granularity)

    def _entry(self, number: int) -> str:
        return storage.join(self._log, f"{number:08d}.json")

    def _read_log(self) -> dict[str, int]:
        entries = storage.read_ranges([storage.Range(self._entry(n)) for n in range(1, self._number + 1)])
        sent: dict[str, int] = {}
        for number, entry in enumerate(entries, 1):
            if not isinstance(entry, bytes):
                raise InputError(
                    f"{self._entry(number)}: gone, so nobody knows what {self._warehouse.where} holds; restore it"
                )
            sent.update(json.loads(entry))
        return sent


def _numbered(index: int, rows: pa.Table) -> pa.Table:
    return rows.append_column("shard", pa.array([index] * len(rows), pa.int32()))

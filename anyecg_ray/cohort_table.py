"""What the ECGs around index times say: a row per member of the cohort and indicator.

Of two ECGs equally near to an index time the earlier one is the nearest, because it cannot know more than the index
time did; of two that began together it is the first by span_id. Without index times nothing is nearest.
"""

from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from anyecg_ray import storage
from anyecg_ray.cohort import WHO, Ecgs, IndexTimes, Lookup, Pairs
from anyecg_ray.estimate_rows import publishable
from anyecg_ray.ledger import Ledger
from anyecg_ray.model import Card
from anyecg_ray.schema import TIME, Status

CHUNK = 4096
"""Rows of the cohort that are gathered at a time."""


_TOLD = pa.schema([*((name, pa.string()) for name in ("span_id", "status", *WHO)), ("ecg_time", TIME)])


class _Estimates:
    """The ECGs that have an estimate."""

    def __init__(self, ledger: Ledger, card: Card) -> None:
        n = len(card.indicators)
        told, numbers = [_TOLD.empty_table()], [np.empty((0, n), np.float32)]
        for shard in sorted(ledger.staged()):
            rows = publishable(ledger.rows(shard), card)
            each = rows.select(_TOLD.names).take(pa.array(np.arange(0, len(rows), n)))
            ok = pc.equal(each.column("status"), Status.OK)
            number = pc.coalesce(rows.column("value"), rows.column("probability")).to_numpy()
            told.append(each.filter(ok).cast(_TOLD))
            numbers.append(number.reshape(-1, n)[ok.to_numpy()])
        rows = pa.concat_tables(told)
        self.numbers = np.concatenate(numbers)
        """(ECGs, indicators) float32: probability, or value where the indicator is one."""
        self.span_id = rows.column("span_id").combine_chunks()
        self.ecgs = Ecgs.of(rows, "ecg_time")
        self.rank = np.argsort(pc.sort_indices(self.span_id).to_numpy())
        """(ECGs,) int: place by span_id, whatever order they were scored in."""
        self.lookups = {k: Lookup(ids) for k, ids in self.ecgs.who.items()}


def write(cohort: IndexTimes, ledger: Ledger, card: Card, out: str) -> None:
    """Write the table below `out` and print where it is."""
    uri = storage.join(out, "cohort", f"{card.model_version}.parquet")
    estimates, n = _Estimates(ledger, card), len(cohort.rows)
    parts = (_gathered(cohort, start, min(start + CHUNK, n), estimates, card) for start in range(0, n, CHUNK))
    first = next(parts)
    with storage.atomic_output(uri) as file, pq.ParquetWriter(file, first.schema, compression="zstd") as writer:
        for part in chain([first], parts):
            writer.write_table(part)
    print(f"cohort:    {uri}")


def _gathered(cohort: IndexTimes, start: int, stop: int, estimates: _Estimates, card: Card) -> pa.Table:
    """The rows of the members from `start` to before `stop`."""
    n, members = len(card.indicators), stop - start
    pairs = _sorted(cohort.belonging(estimates.ecgs, estimates.lookups, start, stop), estimates)
    count = np.bincount(pairs.member - start, minlength=members)
    has = np.flatnonzero(count)
    firsts = (np.cumsum(count) - count)[has]
    near, mean, most = (np.full((members, n), np.nan, np.float32) for _ in range(3))
    if len(has):
        theirs = estimates.numbers[pairs.ecg]
        near[has] = theirs[firsts]
        mean[has] = np.add.reduceat(theirs, firsts, dtype=np.float64) / count[has, None]
        most[has] = np.maximum.reduceat(theirs, firsts)
    numbers = {"nearest": near, "mean": mean, "highest": most}
    each = np.repeat(np.arange(members), n)
    told = {"n_spans": pa.array(count, pa.int32())}
    if cohort.timed:
        told |= _nearest(pairs.only(firsts), has, members, estimates)
    else:
        del numbers["nearest"]
    return pa.table(
        {
            **{k: cohort.rows.column(k).take(pa.array(start + each)) for k in cohort.rows.column_names},
            **{k: column.take(pa.array(each)) for k, column in told.items()},
            "indicator": pa.array([i.key for i in card.indicators] * members, pa.string()),
            **{k: pa.array(v.ravel(), pa.float32(), from_pandas=True) for k, v in numbers.items()},
            "model_version": pa.array([card.model_version] * (n * members), pa.string()),
        }
    )


def _sorted(pairs: Pairs, estimates: _Estimates) -> Pairs:
    """By member, the nearest ECG first."""
    far, time = (moment.astype(np.int64) for moment in (np.abs(pairs.apart), estimates.ecgs.time[pairs.ecg]))
    return pairs.only(np.lexsort((estimates.rank[pairs.ecg], time, far, pairs.member)))


def _nearest(firsts: Pairs, has: np.ndarray, members: int, estimates: _Estimates) -> dict[str, pa.Array]:
    """Which ECG is the nearest and how long before the index time it began. has: members that have one."""
    ecg, minutes = np.full(members, -1), np.full(members, np.nan)
    ecg[has], minutes[has] = firsts.ecg, firsts.apart.astype(np.float64) / 60e6
    return {
        "nearest_span_id": estimates.span_id.take(pa.array(ecg, mask=ecg < 0)),
        "nearest_minutes_before": pa.array(minutes, pa.float32(), from_pandas=True),
    }

"""A cohort: who, and around which moments; it chooses the ECGs that are scored and gathers what they say.

A table with `patient_id` or `encounter_id`, `index_time`, and columns of its user's own, which come out again.
An ECG belongs to an index time where it began in the window around it; without index times every ECG of the patient or
the encounter does.
"""

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from anyecg_ray import storage, tables
from anyecg_ray.config import InputError, Settings
from anyecg_ray.ledger import Ledger
from anyecg_ray.manifest import ManifestFile, read_rows
from anyecg_ray.model import Card
from anyecg_ray.predict import Shard
from anyecg_ray.publish import publishable

WHO = ("encounter_id", "patient_id")
"""What a row may be found by, the narrower one first."""

CHUNK = 4096
"""Rows of the cohort that are gathered at a time."""


class Window(Settings):
    """Which ECGs belong to an index time."""

    before: float = 1440
    """Minutes before it in which an ECG counts."""

    after: float = 0
    """Minutes after it; above 0 an estimate may know what the index time did not."""


class IndexTimes:
    """The cohort of one table."""

    def __init__(self, uri: str, window: Window) -> None:
        """Raises InputError where the table cannot be used."""
        present = tables.columns(uri)
        tables.require(uri, present, [], [*WHO, "index_time"])
        if not (keys := [k for k in WHO if k in present]):
            raise InputError(f"{uri}: no column patient_id or encounter_id; name who is in the cohort")
        self.key = keys[0]
        batches = list(tables.batches(uri, present))
        if not sum(map(len, batches)):
            raise InputError(f"{uri}: column {self.key} is empty, there is no row below the header")
        rows = pa.Table.from_batches(batches)
        self._own = [n for n in rows.column_names if n not in (*WHO, "index_time")]
        frame = rows.to_pandas()
        frame[self.key] = tables.identifiers(rows.column(self.key).combine_chunks()).to_pandas()
        self._timed = "index_time" in present
        frame["index_time"] = self._times(uri, rows) if self._timed else pd.NaT
        if frame.empty or frame[self.key].isna().any():
            raise InputError(f"{uri}: column {self.key} is empty in some row; every row names who it is about")
        self.rows = frame
        self._window = (
            np.timedelta64(round(window.before * 60e6), "us"),
            np.timedelta64(round(window.after * 60e6), "us"),
        )
        text = rows.to_pandas().to_csv() + repr((self.key, window.model_dump()))
        self.fingerprint = hashlib.sha256(text.encode()).hexdigest()[:16]

    @staticmethod
    def _times(uri: str, rows: pa.Table) -> "pd.Series[Any]":
        read, odd = tables.times(rows.column("index_time").combine_chunks())
        missing = odd | read.is_null().to_numpy(zero_copy_only=False)
        if missing.any():
            raise InputError(
                f"{uri}: index_time of line {int(missing.argmax()) + 2} is no time; write 2026-11-20 08:30:00"
            )
        return pd.Series(_moments(read))

    def choose(self, manifest: ManifestFile, shards: list[Shard]) -> Iterator[Shard]:
        """The shards with the spans that belong to the cohort, those left out that have none."""
        group, mask = -1, np.empty(0, bool)
        for shard in shards:
            if shard.row_group != group:
                group = shard.row_group
                rows = read_rows(manifest.uri, group, columns=[self.key, "start_time"])
                mask = self._belongs(rows)
            mine = mask[shard.offset : shard.offset + shard.rows]
            if mine.any():
                yield shard.only(mine)

    def _belongs(self, rows: pa.Table) -> np.ndarray:
        """bool (rows,): whether a span belongs to any index time."""
        spans = pd.DataFrame({self.key: rows.column(self.key).to_pandas(), "row": np.arange(len(rows))})
        spans["time"] = _moments(rows.column("start_time"))
        found = self._pairs(spans, self.rows)
        mask = np.zeros(len(rows), bool)
        mask[found["row"].to_numpy()] = True
        return mask

    def _pairs(self, spans: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
        """Every row of the cohort with every span that belongs to it; `apart`: the time from the span to the index."""
        pairs = rows[[self.key, "index_time"]].reset_index(names="member").merge(spans, on=self.key)
        pairs["apart"] = pairs["index_time"] - pairs["time"]
        if not self._timed:
            return pairs
        before, after = self._window
        return pairs[(pairs["apart"] <= before) & (pairs["apart"] >= -after)]

    def write(self, ledger: Ledger, card: Card, out: str) -> str:
        """A row per member of the cohort and indicator: the nearest estimate, and those of the window together."""
        uri = storage.join(out, "cohort", f"{card.model_version}.parquet")
        spans, numbers = self._estimates(ledger, card)
        with storage.atomic_output(uri) as file:
            writer = None
            for start in range(0, len(self.rows), CHUNK):
                some = self._gathered(self.rows.iloc[start : start + CHUNK], spans, numbers, card)
                writer = writer or pq.ParquetWriter(file, some.schema, compression="zstd")
                writer.write_table(some)
            if writer is not None:
                writer.close()
        print(f"cohort:    {uri}")
        return uri

    def _estimates(self, ledger: Ledger, card: Card) -> tuple[pd.DataFrame, np.ndarray]:
        """The spans that have an estimate, and (spans, indicators) float32: probability, or value where it is one."""
        n, frames, numbers = len(card.indicators), [], []
        for shard in sorted(ledger.staged()):
            rows = publishable(ledger.rows(shard), card)
            each = rows.take(pa.array(np.arange(0, len(rows), n)))
            ok = pc.equal(each.column("status"), "ok").to_numpy()
            number = pc.coalesce(rows.column("value"), rows.column("probability"))
            numbers.append(number.to_numpy(zero_copy_only=False).reshape(-1, n)[ok])
            told = pd.DataFrame({k: each.column(k).to_pandas() for k in ("span_id", self.key)})
            told["time"] = _moments(each.column("ecg_time"))
            frames.append(told[ok])
        if not frames:
            return pd.DataFrame(columns=["span_id", self.key, "time", "row"]), np.empty((0, n), np.float32)
        spans = pd.concat(frames, ignore_index=True)
        return spans.assign(row=np.arange(len(spans))), np.concatenate(numbers)

    def _gathered(self, members: pd.DataFrame, spans: pd.DataFrame, numbers: np.ndarray, card: Card) -> pa.Table:
        """A row per member and indicator."""
        n = len(card.indicators)
        pairs = self._pairs(spans, members)
        pairs = pairs.assign(far=pairs["apart"].abs()).sort_values(["member", "far", "row"], kind="stable")
        nearest = pairs.groupby("member").first().reindex(members.index)
        has = nearest["row"].notna().to_numpy()
        near, mean, most = (np.full((len(members), n), np.nan, np.float32) for _ in range(3))
        near[has] = numbers[nearest["row"].to_numpy()[has].astype(int)]
        if len(pairs):
            starts = np.flatnonzero(np.diff(pairs["member"].to_numpy(), prepend=-1))
            sizes = np.diff([*starts, len(pairs)])
            theirs = numbers[pairs["row"].to_numpy().astype(int)]
            mean[has] = np.add.reduceat(theirs, starts) / sizes[:, None]
            most[has] = np.maximum.reduceat(theirs, starts)
        count = pairs.groupby("member").size().reindex(members.index, fill_value=0)
        minutes = nearest["apart"].to_numpy().astype("timedelta64[us]").astype("float64") / 60e6
        per_member = {
            self.key: members[self.key],
            **({"index_time": members["index_time"].dt.tz_localize("UTC")} if self._timed else {}),
            **{name: members[name] for name in self._own},
            "n_spans": count.astype("int32"),
            "nearest_span_id": nearest["span_id"].astype(object).where(has, None),
            **({"nearest_minutes_before": np.where(has, minutes, np.nan)} if self._timed else {}),
        }
        columns = {
            k: pa.array(np.repeat(np.asarray(v, dtype=object), n).tolist(), _type(k, v)) for k, v in per_member.items()
        }
        columns["indicator"] = pa.array([i.key for i in card.indicators] * len(members), pa.string())
        for name, values in (("nearest", near), ("mean", mean), ("highest", most)):
            columns[name] = pa.array(values.ravel(), pa.float32(), from_pandas=True)
        version = pa.array([card.model_version] * (n * len(members)), pa.string())
        return pa.table({**columns, "model_version": version})


def _type(name: str, values: Any) -> pa.DataType:
    if name == "index_time":
        return pa.timestamp("us", tz="UTC")
    if name == "n_spans":
        return pa.int32()
    return pa.float32() if name == "nearest_minutes_before" else pa.string()


def _moments(column: Any) -> np.ndarray:
    """datetime64[us] (n,), UTC, NaT where there is no time: archives reach into years that nanoseconds do not."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    out: np.ndarray = array.cast(pa.timestamp("us")).to_numpy(zero_copy_only=False)
    return out

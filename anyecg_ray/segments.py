"""The segment store: labelled windows in Parquet, from which training and evaluation read at disk speed.

SEGMENTS/card.json                    what is in it; written last, so that a store with a card is a whole one
SEGMENTS/drops.parquet                what is not in it: reason, number
SEGMENTS/split=train/part-….parquet   (val, test alike) one row per window:
  segment_id, span_id, record_id, patient_id, encounter_id, time, age, sex,
  of acuity, disposition, race, ethnicity those that the data set knows,
  scale (float32), samples (leads × samples int16: the normalised window is samples × scale),
  and for each indicator `label:KEY`, float32: 1, 0 or the value; null where it was not measured
"""

import json
import random
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from anyecg_ray import storage
from anyecg_ray.config import InputError
from anyecg_ray.model import Bundle, IndicatorCard
from anyecg_ray.recipe import Recipe
from anyecg_ray.schema import TIME
from anyecg_ray.splits import PARTS

if TYPE_CHECKING:
    import ray.data

CARD, DROPS = "card.json", "drops.parquet"
LARGEST = 32767

IDENTITY = pa.schema(
    [
        pa.field("segment_id", pa.string(), nullable=False),
        pa.field("span_id", pa.string(), nullable=False),
        pa.field("record_id", pa.string(), nullable=False),
        pa.field("patient_id", pa.string()),
        pa.field("encounter_id", pa.string()),
        pa.field("time", TIME),
        pa.field("age", pa.float32()),
        pa.field("sex", pa.string()),
    ]
)


class SegmentsCard(BaseModel):
    """card.json of a store."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    format: int = 1
    dataset: str
    recipe: dict[str, Any]
    preprocess_fingerprint: str
    indicators: list[IndicatorCard]
    counts: dict[str, dict[str, dict[str, int]]]
    """By split and indicator: windows, positive and negative ones, patients of each."""
    windows: dict[str, int]
    patients: dict[str, int]
    drops: dict[str, int]
    settings: dict[str, Any]
    fingerprint: str

    def preprocessing(self) -> Recipe:
        """How the windows were made."""
        return Recipe.from_dict(self.recipe)


def label(key: str) -> str:
    """Column of an indicator's labels."""
    return f"label:{key}"


def read_card(uri: str) -> SegmentsCard:
    """The store's card. Raises InputError where there is no whole store."""
    where = storage.join(uri, CARD)
    try:
        return SegmentsCard.model_validate(json.loads(storage.read_bytes(where)))
    except storage.MissingObject:
        raise InputError(f"{uri}: no finished segments, it has no {CARD}; `anyecg prepare` makes them") from None
    except ValueError as error:
        raise InputError(f"{where}: not a card of segments ({str(error).splitlines()[0]})") from None


def check_preprocessing(card: SegmentsCard, bundle: Bundle, where: str) -> None:
    """Raise InputError, naming the bundle at `where`, unless it reads windows that were made as the store's were."""
    if bundle.card.preprocess_fingerprint != card.preprocess_fingerprint:
        differ = ", ".join(bundle.recipe.differences(card.preprocessing())) or "its version"
        raise InputError(
            f"{where}: its preprocessing is not that of the segments (differs in: {differ}); "
            "prepare segments with the model's own --recipe and --leads"
        )


def schema_of(indicators: Sequence[str], numbers: int, described: Sequence[str] = ()) -> pa.Schema:
    """Schema of a part. numbers: leads × samples; described: columns that tell more of an encounter."""
    more = [pa.field(name, pa.string()) for name in described]
    signal = [
        pa.field("scale", pa.float32(), nullable=False),
        pa.field("samples", pa.binary(2 * numbers), nullable=False),
    ]
    return pa.schema([*IDENTITY, *more, *signal, *(pa.field(label(k), pa.float32()) for k in indicators)])


def quantised(x: np.ndarray) -> tuple[np.ndarray, pa.Array]:
    """Windows (n, leads, samples) as scales, (n,) float32, and int16 samples: 1/65534 of the peak off at most."""
    flat = x.reshape(len(x), -1)
    scale = np.maximum(np.abs(flat).max(axis=1), 1e-12).astype(np.float32) / LARGEST
    whole = np.rint(flat / scale[:, None]).astype("<i2")
    kind = pa.binary(2 * flat.shape[1])
    return scale, pa.Array.from_buffers(kind, len(x), [None, pa.py_buffer(np.ascontiguousarray(whole))])


def windows(batch: pa.Table | pa.RecordBatch, leads: int) -> np.ndarray:
    """The normalised windows of a batch, (n, leads, samples) float32."""
    column = batch.column("samples")
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    width = column.type.byte_width // 2
    raw = np.frombuffer(column.buffers()[1], "<i2") if len(column) else np.empty(0, "<i2")
    whole = raw[column.offset * width : (column.offset + len(column)) * width]
    scale = batch.column("scale").to_numpy()
    out: np.ndarray = whole.reshape(len(column), width) * np.asarray(scale, np.float32)[:, None]
    return out.reshape(len(column), leads, width // leads)


def labels(batch: pa.Table | pa.RecordBatch, keys: Sequence[str]) -> np.ndarray:
    """(n, keys) float32, NaN where not measured."""
    columns = [batch.column(label(k)).to_numpy(zero_copy_only=False) for k in keys] if len(batch) else []
    return np.stack(columns, axis=1).astype(np.float32) if columns else np.empty((len(batch), len(keys)), np.float32)


def parts(uri: str, split: str) -> list[str]:
    """The files of a split, in order. Raises InputError for a split that is not there."""
    if split not in PARTS:
        raise InputError(f"setting split: {split}; there are {', '.join(PARTS)}")
    folder = storage.join(uri, f"split={split}")
    return [storage.join(folder, f) for f in storage.files(folder) if f.startswith("part-") and f.endswith(".parquet")]


def columns(uri: str, split: str) -> list[str]:
    """The columns by which a split may be grouped: all but signal and labels; none where it has no windows."""
    for part in parts(uri, split)[:1]:
        with storage.open_input(part) as file:
            names = pq.ParquetFile(file).schema_arrow.names
        return [n for n in names if n not in ("scale", "samples") and not n.startswith(label(""))]
    return []


def batches(
    uri: str, split: str, batch_size: int = 512, columns: Sequence[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """Rows of a split in their order, a batch at a time, one file open."""
    for part in parts(uri, split):
        with storage.open_input(part) as file:
            wanted = None if columns is None else list(columns)
            yield from pq.ParquetFile(file).iter_batches(batch_size, columns=wanted)


def dataset(
    uri: str, split: str, columns: Sequence[str] | None = None, shuffle: int | None = None
) -> "ray.data.Dataset":
    """A split as a Ray Dataset that streams from the parts; `windows` and `labels` read its pyarrow batches.

    Uses its own reader: Ray's read_parquet was three times slower on these files. The number of windows is in the card.
    shuffle: a seed; each pass reads the parts in another order, and runs repeat if execution preserves order. Ray must
    be connected. Raises InputError where the split has none.
    """
    import ray.data  # training needs it, evaluation does not

    found = parts(uri, split)
    if not found:
        raise InputError(f"{uri}: no windows in split {split}; make segments with `anyecg prepare`")
    tasks = min(len(found), max(FEWEST_TASKS, len(found) // PARTS_OF_A_TASK))
    most = max(2, int(ray.cluster_resources().get("CPU", 1)) // 2)  # at a time; else all of them, as they ask for none
    places = ray.data.from_blocks([pa.table({"id": ids}) for ids in np.array_split(np.arange(len(found)), tasks)])
    if shuffle is not None:
        places = places.randomize_block_order(seed=ray.data.RandomSeedConfig(shuffle, reseed_after_execution=True))
    return places.map_batches(
        _read_parts,  # type: ignore[arg-type]  # Ray forgets fn_args
        fn_args=(found, None if columns is None else list(columns), shuffle),
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=0,  # the workers may have taken all, and nothing would ever come
        compute=ray.data.TaskPoolStrategy(most),
    )


BLOCK_ROWS = 2048
"""Windows to a block of Ray's: 20 MB a lead."""

PARTS_OF_A_TASK, FEWEST_TASKS = 8, 16
"""A task costs as much as reading a part of 20 MB does: a task for each part reads at a tenth of the speed."""


def _read_parts(
    batch: pa.Table, found: list[str], columns: list[str] | None, shuffle: int | None
) -> Iterator[pa.Table]:
    places = batch.column("id").to_pylist()
    if shuffle is not None:  # of its own places, so that it does not matter which process reads them
        random.Random(f"{shuffle} {places}").shuffle(places)
    for index in places:
        with storage.open_input(found[index]) as file:
            for rows in pq.ParquetFile(file).iter_batches(BLOCK_ROWS, columns=columns):
                yield pa.Table.from_batches([rows])

"""The pipeline from shards of a manifest to estimates: fetch, decode, preprocess, predict, on Ray Data.

One task works on one shard and yields it in pieces of a few hundred windows, so that memory does not
depend on how long the recordings are; actors hold the model. Between the two, a piece is one Arrow table:
a row per span, and the windows of all its spans in one contiguous buffer, which the model reads in place
from the object store. A bad span is a row with a status; no input raises out of a worker.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute
import ray
from pydantic import Field
from ray.data import Dataset

from anyecg_ray import leads, pack_read, storage, telemetry
from anyecg_ray.backends import Compute, Estimator
from anyecg_ray.config import InputError, Settings
from anyecg_ray.header import RecordError
from anyecg_ray.manifest_file import read_rows, seconds_of
from anyecg_ray.model import load
from anyecg_ray.preprocess import Recipe, Windows, preprocess
from anyecg_ray.record import Bytes, Record, decode, reads
from anyecg_ray.schema import Status
from anyecg_ray.spans import beside
from anyecg_ray.storage_errors import status_of

PIECE_WINDOWS = 256
"""Windows to a piece: about a second of model time, 5 MB a lead; enough to hide what Ray costs per block."""

PIECES_AT_ONCE = 2
"""Pieces that one copy of the model works on: what Ray does with one is done beside the other, and no core waits for
the last batch of either (streams.py). One more waits at the copy, so that its windows are there in time."""

MODEL_MEMORY = 2**30
"""Bytes that Ray reserves for one copy of the model: weights, graph and activations of the full size take half."""

CARRIED = ("span_id", "record_id", "dataset", "patient_id", "encounter_id", "start_time")
"""Columns of the manifest that go into the staging table as they are."""


class Shard(NamedTuple):
    """Rows of a manifest that are scored and committed together."""

    row_group: int
    offset: int
    rows: int
    """Of the manifest, chosen or not."""
    chosen: bytes | None = None
    """A bit for each row, as numpy.packbits has them: which ones are scored; None: all."""

    @property
    def name(self) -> str:
        """Its part of the file name; the same rows have the same name in every run."""
        return f"{self.row_group:06d}-{self.offset:06d}"

    @property
    def length(self) -> int:
        """Rows that are scored."""
        return self.rows if self.chosen is None else int(self.mask().sum())

    def mask(self) -> np.ndarray:
        """bool (rows,)."""
        if self.chosen is None:
            return np.ones(self.rows, bool)
        return np.unpackbits(np.frombuffer(self.chosen, np.uint8), count=self.rows).astype(bool)

    def only(self, mask: np.ndarray) -> "Shard":
        """The same shard with these rows chosen. mask: bool (rows,)."""
        return self._replace(chosen=None if mask.all() else np.packbits(mask).tobytes())


class Predict(Settings):
    """How the pipeline is laid out. The defaults suit one machine and a cluster alike."""

    actors: int = Field(0, ge=0)
    """Copies of the model. 0: one for every GPU, else one for every 4 cores of the cluster as it is at the start."""

    cpus_per_actor: float = Field(0, ge=0)
    """CPUs that Ray reserves for one copy. 0: a quarter of its threads, so that reading still fits when copies of a
    lost node move here."""

    gpus_per_actor: float = Field(0, ge=0)
    """GPUs that Ray reserves for one copy."""

    preprocess_cpus: float = Field(1, gt=0)
    """CPUs that Ray reserves for one preprocessing task."""

    def for_cluster(self, compute: Compute) -> "Layout":
        """Settle what is 0 for the cluster that Ray is connected to."""
        total = ray.cluster_resources()
        gpus = self.gpus_per_actor or (1.0 if total.get("GPU") and compute.backend != "openvino" else 0.0)
        # a copy lives on one node: what several nodes have together would fit on none of them
        nodes = [cpus for n in ray.nodes() if n["Alive"] and (cpus := n["Resources"].get("CPU", 0.0))]
        largest = max(nodes, default=math.inf)  # none is there yet: a cluster that grows when work waits for it
        threads = compute.threads or max(1, int(min(THREADS, largest)))
        room = total.get("GPU", 0.0) / gpus if gpus else sum(cpus // threads for cpus in nodes)
        actors = self.actors or max(1, int(room))
        set_aside = self.cpus_per_actor or (1.0 if gpus else max(0.5, threads / 4))
        reading = self.preprocess_cpus if gpus else max(0.1, min(self.preprocess_cpus, largest - set_aside))
        return Layout(actors, set_aside, gpus, reading, compute.model_copy(update={"threads": threads}))


THREADS = 4
"""Cores for one copy of the model: more copies cost memory, more threads to a copy wait for each other."""


class Layout(NamedTuple):
    """Copies of the model, what each takes, and how it computes."""

    actors: int
    cpus: float
    gpus: float
    reading: float
    """CPUs of one preprocessing task: it must fit beside a copy, or nothing ever moves."""
    compute: Compute


@dataclass(frozen=True)
class Source:
    """What a worker needs to read spans: plain values, so that they travel to any node."""

    manifest: str
    archive: str
    recipe: Recipe
    digests: tuple[str, ...] = ()
    """Of the manifest's row groups, as the job knows them; none: whatever is there is read."""

    def rows(self, shard: Shard, columns: list[str] | None = None) -> pa.Table:
        """The shard's rows of the manifest, chosen or not. Raises InputError where it is not the job's any more."""
        digest = self.digests[shard.row_group] if self.digests else None
        return read_rows(self.manifest, shard.row_group, shard.offset, shard.rows, columns, digest)


def windows_of(source: Source, shard: Shard, index: int) -> Iterator[pa.Table]:
    """The shard's spans as pieces: the carried columns, `shard`, status, window_start, quality, and the windows.

    `x` holds a span's usable windows as the bytes of (windows, leads, samples) float32. Fetching the next piece
    runs beside decoding this one.
    """
    rows = source.rows(shard)
    if shard.chosen is not None:
        rows = rows.filter(pa.array(shard.mask()))
    pieces = [rows.slice(a, b - a) for a, b in cuts(rows, source.recipe.seconds, PIECE_WINDOWS)]
    with ThreadPoolExecutor(1) as ahead:
        fetching = ahead.submit(fetch, pieces[0], source) if pieces else None
        for i, piece in enumerate(pieces):
            assert fetching is not None
            fetched = fetching.result()
            fetching = ahead.submit(fetch, pieces[i + 1], source) if i + 1 < len(pieces) else None
            with telemetry.stage("preprocess"):
                spans = [_scored_span(f, source.recipe) for f in fetched]
            yield _piece(piece, spans, source.recipe).append_column(
                pa.field("shard", pa.int32()), pa.array(np.full(len(spans), index, np.int32))
            )


class Fetched(NamedTuple):
    """One span of the manifest with its signal bytes, or the reason why there are none."""

    header: str
    start: int
    stop: int | None
    leads: tuple[int, ...] | None
    """Places of the signals to decode; None: all."""
    blobs: dict[str, Bytes]
    status: Status
    detail: str

    def record(self) -> Record:
        """The span's signals. Raises RecordError."""
        return decode(self.header, self.blobs, self.start, self.stop, self.leads)


def fetch(rows: pa.Table, source: Source) -> list[Fetched]:
    """The signal bytes of every span, all ranges of the piece asked for at once."""
    told = rows.to_pylist()
    spans = [_planned(row, source.recipe) for row in told]
    wanted = [(i, name, r) for i, (_, ranges) in enumerate(spans) for name, r in ranges.items()]
    with telemetry.stage("fetch"):
        blobs = _blobs([(told[i], name, r) for i, name, r in wanted], source.archive)
    telemetry.read(sum(len(blob) for blob in blobs if not isinstance(blob, storage.StorageError)))
    found = [f for f, _ in spans]
    for (i, name, _), blob in zip(wanted, blobs, strict=True):
        if not isinstance(blob, storage.StorageError):
            found[i].blobs[name] = blob
        elif found[i].status is Status.OK:
            found[i] = found[i]._replace(status=status_of(blob), detail=str(blob))
    return found


def _blobs(
    wanted: Sequence[tuple[dict[str, Any], str, tuple[int, int | None]]], archive: str
) -> Sequence[Bytes | storage.StorageError]:
    """wanted: (the manifest's row, one of its record's files, first byte and bytes of it)."""
    paths = [beside(row["record_id"], name) for row, name, _ in wanted]
    if wanted and "packed" in wanted[0][0]:
        return pack_read.read(
            [pack_read.located(archive, row, p, *r) for p, (row, _, r) in zip(paths, wanted, strict=True)]
        )
    return storage.read_ranges(
        [storage.Range(storage.join(archive, p), *r) for p, (_, _, r) in zip(paths, wanted, strict=True)]
    )


def _planned(row: dict[str, Any], recipe: Recipe) -> tuple[Fetched, dict[str, tuple[int, int | None]]]:
    """What to fetch for one span; nothing where the manifest already says that it cannot be read."""
    start, length = row["start_sample"], row["n_samples"]
    stop = None if length is None else start + length
    signals = leads.sufficient(tuple(row["leads"] or ()), recipe.leads)
    span = Fetched(row["header"] or "", start, stop, signals, {}, Status.OK, "")
    if row["status"] != Status.OK:
        return span._replace(status=Status(row["status"]), detail=row["status_detail"] or ""), {}
    try:
        return span, reads(span.header, span.start, span.stop, span.leads)
    except RecordError as error:
        return span._replace(status=error.status, detail=error.detail), {}


def _scored_span(span: Fetched, recipe: Recipe) -> Windows:
    """Decode and preprocess one span; whatever its bytes are, the answer is windows or a reason."""
    if span.status is not Status.OK:
        return Windows.none(recipe, span.status, span.detail)
    try:
        return preprocess(span.record(), recipe)
    except RecordError as error:
        return Windows.none(recipe, error.status, error.detail)
    except Exception as error:  # a defect of ours must not stop the job; the row says what it was
        return Windows.none(recipe, Status.UNREADABLE, f"{type(error).__name__}: {error}"[:200])


def cuts(rows: pa.Table, window_s: float, most: int) -> list[tuple[int, int]]:
    """Row ranges (first, stop) of about `most` windows, told by the lengths in the manifest.

    rows: `n_samples` and `fs` of spans; window_s: seconds of a window.
    """
    windows = np.maximum(seconds_of(rows) // window_s, 1)
    piece = (np.cumsum(windows) - 1) // most
    edges = np.flatnonzero(np.diff(piece, prepend=-1, append=np.inf))
    return [(int(a), int(b)) for a, b in itertools.pairwise(edges.tolist())]


def _piece(rows: pa.Table, spans: Sequence[Windows], recipe: Recipe) -> pa.Table:
    data = np.concatenate([s.x for s in spans]) if spans else np.empty(0, np.float32)
    sizes = np.array([s.x.nbytes for s in spans], np.int64)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    x = pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), len(spans), [None, pa.py_buffer(offsets), pa.py_buffer(data)]
    )
    told = {
        "status": pa.array([str(s.status) for s in spans], pa.string()),
        "status_detail": pa.array([s.detail or None for s in spans], pa.string()),
        "window_start": pa.array([s.start for s in spans], pa.list_(pa.float32())),
        "quality": pa.array([["|".join(f) for f in s.flags] for s in spans], pa.list_(pa.string())),
        "usable": pa.array([s.usable for s in spans], pa.list_(pa.bool_())),
        "x": x,
    }
    return pa.table({**{c: rows.column(c) for c in CARRIED}, **told})


class Predictor:
    """An actor that holds one copy of the model and turns pieces into the network's outputs."""

    def __init__(self, bundle: str, compute: Compute, weights: str | None = None) -> None:
        """weights: SHA-256 of those that the job's rows are said to come from. Raises InputError for others."""
        found = load(bundle)
        if weights is not None and found.card.weights_sha256 != weights:
            raise InputError(f"{bundle}: its weights were replaced while it was being scored with; run the line again")
        self._estimator = Estimator(found, compute, together=True)
        self._computed_by = str(self._estimator.choice)

    def __call__(self, piece: pa.Table) -> pa.Table:
        """The piece with `values` in place of `x`: a list per window of numbers per column of the card.

        `computed_by` tells the backend, the device and the precision.
        """
        parts = [self._predict(part) for part in piece.to_batches()]
        return pa.Table.from_batches(parts) if parts else piece

    def _predict(self, piece: pa.RecordBatch) -> pa.RecordBatch:
        recipe = self._estimator.recipe
        shape = (-1, len(recipe.leads), recipe.samples)
        x = np.frombuffer(_bytes_of(piece.column("x")), np.float32).reshape(shape)
        with telemetry.predicting(len(x)):
            logits = self._estimator.logits(x)
        values = nested(logits, piece.column("usable"))
        kept = [n for n in piece.schema.names if n not in ("x", "usable")]
        computed_by = pa.array([self._computed_by] * len(piece))
        return piece.select(kept).append_column("values", values).append_column("computed_by", computed_by)


def _bytes_of(column: pa.LargeBinaryArray) -> memoryview:
    """The bytes of all elements, which follow each other in one buffer; nothing is copied."""
    _, offsets, data = column.buffers()
    edges = np.frombuffer(offsets, np.int64)[column.offset : column.offset + len(column) + 1]
    return memoryview(data)[edges[0] : edges[-1]] if len(column) and data is not None else memoryview(b"")


def nested(estimates: np.ndarray, usable: pa.ListArray) -> pa.ListArray:
    """Estimates of the usable windows, (n, columns) float32, as a list per window in a list per span.

    usable: bools, a list per span; a window that is not usable becomes null.
    """
    used = usable.flatten().to_numpy(zero_copy_only=False).astype(bool)
    sizes = np.concatenate([[0], np.cumsum(used)]) * estimates.shape[1]
    flat = pa.array(estimates.reshape(-1))
    windows = pa.ListArray.from_arrays(pa.array(sizes, pa.int32()), flat, mask=pa.array(~used))
    lengths = pa.compute.list_value_length(usable).to_numpy(zero_copy_only=False)
    spans = np.concatenate([[0], np.cumsum(lengths)])
    return pa.ListArray.from_arrays(pa.array(spans, pa.int32()), windows)


def estimates(
    shards: Sequence[Shard],
    source: Source,
    bundle: str,
    settings: Predict,
    compute: Compute,
    weights: str | None = None,
) -> Dataset:
    """A row per span of the shards, in no particular order; `shard` says which of them it belongs to.

    weights: SHA-256 of the bundle's, where it must not have others by now.
    Columns: those of schema.STAGING without the provenance, and `shard`, the index into `shards`.
    """
    context = ray.data.DataContext.get_current()
    # a block is a piece: small enough to stream, and never regrouped, which would copy the windows
    context.target_max_block_size = PIECE_WINDOWS * len(source.recipe.leads) * source.recipe.samples * 4
    # a copy that is killed while it starts is replaced too; a bundle that is broken was refused before this
    context.max_consecutive_actor_init_deaths = 3
    layout = settings.for_cluster(compute)
    return (
        ray.data.range(len(shards), override_num_blocks=max(1, len(shards)))
        .map_batches(
            _read,  # type: ignore[arg-type]  # Ray forgets fn_args
            fn_args=(list(shards), source),
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=layout.reading,
        )
        .map_batches(
            Predictor,
            fn_constructor_args=(bundle, layout.compute, weights),
            batch_size=None,
            batch_format="pyarrow",
            zero_copy_batch=True,
            num_cpus=layout.cpus,
            num_gpus=layout.gpus,
            # also keeps Ray from fusing the stages: it does where both ask for the same, and then nothing overlaps
            memory=MODEL_MEMORY,
            compute=ray.data.ActorPoolStrategy(
                size=layout.actors,
                enable_true_multi_threading=True,
                max_concurrent_calls_per_actor=PIECES_AT_ONCE,
                max_tasks_in_flight_per_actor=PIECES_AT_ONCE + 1,
            ),
        )
    )


def _read(batch: pa.Table, shards: list[Shard], source: Source) -> Iterator[pa.Table]:
    for index in batch.column("id").to_pylist():
        yield from windows_of(source, shards[index], index)

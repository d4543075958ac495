"""What a benchmark runs on: archive, manifest and bundle, made when they are asked for, and some records in memory."""

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from anyecg_ray import bench_ecgfounder, storage, weights, zips
from anyecg_ray.backends import Compute
from anyecg_ray.backfill import Backfill
from anyecg_ray.config import InputError
from anyecg_ray.manifest import Manifest, manifest, open_manifest, read_rows, write_manifest
from anyecg_ray.model import Bundle, load
from anyecg_ray.predict import Fetched, Source, fetch
from anyecg_ray.preprocess import preprocess
from anyecg_ray.record import RecordError
from anyecg_ray.schema import Status
from anyecg_ray.synthetic import write_archive

if TYPE_CHECKING:
    from anyecg_ray.bench import Bench

WINDOW = 5000
"""Samples of a window of the published way."""


class Setup:
    """Archive, manifest and bundle of a run, and some of its records in memory; made when they are asked for."""

    def __init__(self, settings: "Bench", folder: str) -> None:
        self.settings, self.folder = settings, folder
        self.uri = settings.bundle or str(Path(folder, "bundle"))

    @cached_property
    def bundle(self) -> Bundle:
        """The model."""
        if self.settings.bundle is None:
            # what grows is measured beside a network so small that everything but the model counts
            preset: Literal["tiny", "full"] = "tiny" if self.settings.what == "growth" else "full"
            weights.init(weights.Init(out=self.uri, preset=preset))
        return load(self.uri)

    @cached_property
    def source(self) -> Source:
        """The archive and its manifest."""
        archive, dataset = self.settings.archive, self.settings.dataset
        if archive is None:
            archive, dataset = str(Path(self.folder, "archive")), "mc-med"
            write_archive(archive, 40, seed=0, minutes=5)
        uri = str(Path(self.folder, "manifest.parquet"))
        manifest(Manifest(archive=archive, dataset=dataset, out=uri, workers=0))
        return Source(uri, archive, self.bundle.recipe)

    @cached_property
    def rows(self) -> pa.Table:
        """The whole manifest."""
        uri = self.source.manifest
        return pa.concat_tables(read_rows(uri, g) for g in range(len(open_manifest(uri).row_groups)))

    @cached_property
    def fetched(self) -> list[Fetched]:
        """Those of the first spans that have windows for this model, with their bytes. Raises InputError."""
        found = [f for f in fetch(self.rows.slice(0, 64), self.source) if self._has_windows(f)]
        if not found:
            raise InputError(f"{self.source.archive}: none of its first spans has a window for this model")
        return found

    def _has_windows(self, span: Fetched) -> bool:
        try:
            return span.status is Status.OK and bool(preprocess(span.record(), self.source.recipe).usable.any())
        except RecordError:
            return False

    def windows(self, n: int = 512) -> np.ndarray:
        """(n, leads, samples) float32 from these records, repeated where there are fewer."""
        x = np.concatenate([preprocess(f.record(), self.source.recipe).x for f in self.fetched])
        return np.resize(x, (n, *x.shape[1:]))

    def strips(self) -> NDArray[np.object_]:
        """All whole windows that the published way can read: 500 Hz, the model's leads by name, files in a folder."""
        strips, names = [], {lead.upper() for lead in self.source.recipe.leads}
        for row in self.rows.to_pylist() if storage.is_local(self.source.archive) else ():
            readable = row["status"] == Status.OK and row["fs"] == 500 and zips.MARK not in row["record_id"]
            if readable and names <= {lead.upper() for lead in row["leads"]}:
                record, begins = storage.join(self.source.archive, row["record_id"]), row["start_sample"]
                starts = range(begins, begins + (row["n_samples"] or 0) - WINDOW + 1, WINDOW)
                strips += [bench_ecgfounder.Strip(record, start, start + WINDOW) for start in starts]
        out = np.empty(len(strips), object)
        out[:] = strips
        return out

    def spans(self) -> int:
        """How many spans the records are, repeated until they give the windows that are asked for."""
        seconds = float(np.nansum(self.rows.column("n_samples").to_numpy() / self.rows.column("fs").to_numpy()))
        return max(1, round(10 * self.settings.windows / seconds)) * len(self.rows)

    def job(self, spans: int, out: str) -> Backfill:
        """A back-fill of so many spans into a folder of this run."""
        return Backfill(
            manifest=self.repeated(spans), bundle=self.uri, out=str(Path(self.folder, out)),
            predict=self.settings.predict, **self.settings.model_dump(include=set(Compute.model_fields)),
        )  # fmt: skip

    def repeated(self, spans: int) -> str:
        """A manifest of the same spans again and again."""
        ids = self.rows.column("span_id").to_pylist()
        place = self.rows.schema.get_field_index("span_id")
        uri = str(Path(self.folder, f"{spans}.parquet"))
        tables = (
            self.rows.set_column(place, "span_id", pa.array([f"{i}~{k}" for i in ids])).slice(0, spans - k * len(ids))
            for k in range(-(-spans // len(ids)))
        )
        write_manifest(uri, self.source.archive, self.settings.dataset, tables)
        return uri

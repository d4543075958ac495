"""The whole way on one machine, without a download: an archive, its manifest, a model, estimates, a picture.

Every step is the verb that a user would call, with the line that calls it, so that the demo is also the first
page of the manual. The model is untrained; the output says so wherever it shows a number.
"""

import io

import numpy as np
import pandas as pd
import pyarrow.compute as pc

from anyecg_ray import storage, strip
from anyecg_ray.backfill import Backfill, backfill
from anyecg_ray.config import Settings
from anyecg_ray.manifest import Manifest, manifest, open_manifest, read_rows
from anyecg_ray.predict import Source, fetch
from anyecg_ray.preprocess import recipe
from anyecg_ray.record import decode
from anyecg_ray.synthetic import Synth, synth
from anyecg_ray.weights import Init, init

NOTE = "untrained model: these numbers mean nothing · a research output, never a measurement"
SHOWN = ["span_id", "ecg_time", "indicator", "probability", "n_windows", "quality_flags", "status"]


class Demo(Settings):
    """Make a synthetic archive, score it with an untrained model, and show what came out."""

    out: str = "demo"
    """Folder for everything; a second run goes on where the first stopped."""

    encounters: int = 24
    """Visits in the archive."""

    minutes: float = 3.0
    """Median length of a recording."""

    seed: int = 0
    """Of the archive and of the weights."""


def demo(settings: Demo) -> None:
    """Run it, print the table's head and draw one strip. Raises what the verbs raise."""
    at = lambda name: storage.join(settings.out, name)  # noqa: E731
    _say(f"anyecg synth --out {at('archive')} --encounters {settings.encounters} --minutes {settings.minutes:g}")
    synth(Synth(out=at("archive"), encounters=settings.encounters, minutes=settings.minutes, seed=settings.seed))
    _say(f"anyecg manifest --archive {at('archive')} --dataset mc-med --out {at('manifest.parquet')}")
    manifest(Manifest(archive=at("archive"), dataset="mc-med", out=at("manifest.parquet")))
    _say(f"anyecg init --preset small --seed {settings.seed} --out {at('bundle')}")
    init(Init(out=at("bundle"), preset="small", seed=settings.seed))
    _say(f"anyecg backfill --manifest {at('manifest.parquet')} --bundle {at('bundle')} --out {at('estimates')}")
    backfill(Backfill(manifest=at("manifest.parquet"), bundle=at("bundle"), out=at("estimates")))
    rows = pd.read_parquet(at("estimates/ecg_lab_estimate"))
    _say(f"head of {at('estimates/ecg_lab_estimate')} ({NOTE})", "")
    print(rows[SHOWN].head(8).to_string(index=False))
    drawn = picture(settings, rows)
    print(f"\npicture of one strip with its estimates: {drawn}" if drawn else "\nno strip could be scored: no picture")


def picture(settings: Demo, rows: pd.DataFrame) -> str | None:
    """Draw the first ten usable seconds of the first span that was scored; returns where, None where there is none."""
    staged = pd.read_parquet(storage.join(settings.out, "estimates", "staging"))
    staged = staged[staged.status == "ok"]
    if staged.empty:
        return None
    span = staged.iloc[0]
    second = next(s for s, v in zip(span.window_start, span["values"], strict=True) if v is not None)
    millivolts, fs = _strip(settings, span.span_id, second)
    mine = rows[rows.span_id == span.span_id]
    told = [(i.replace("_", " "), f"{p:.2f}") for i, p in zip(mine.indicator, mine.probability, strict=True)]
    image = io.BytesIO()
    strip.draw(millivolts, fs, f"{span.span_id}, lead II, from second {second:g}", told, NOTE, image)
    out = storage.join(settings.out, "strip.png")
    storage.write_atomic(out, image.getvalue())
    return out


def _strip(settings: Demo, span_id: str, second: float) -> tuple[np.ndarray, float]:
    """Ten seconds of lead II, (samples,) in millivolts, and their rate."""
    uri = storage.join(settings.out, "manifest.parquet")
    for group, length in enumerate(open_manifest(uri).row_groups):
        rows = read_rows(uri, group, 0, length)
        rows = rows.filter(pc.equal(rows.column("span_id"), span_id))
        if len(rows):
            break
    (span,) = fetch(rows, Source(uri, storage.join(settings.out, "archive"), recipe("ecgfounder-finetune", ("II",))))
    record = decode(span.header, span.blobs, span.start, span.stop, span.leads)
    start = round(second * record.fs)
    return record.signals[0, start : start + round(10 * record.fs)], record.fs


def _say(line: str, prompt: str = "$ ") -> None:
    print(f"\n{prompt}{line}", flush=True)

"""The whole way on one machine, without a download: an archive, a model that learns from it, its report, estimates.

Every step is the verb that a user would call, with the line that calls it, so that the demo is also the first
page of the manual. The patients are made up and so is what the model learns; the page says so.
"""

import io
from collections import Counter
from html import escape
from importlib import resources

import numpy as np
import pandas as pd
import pyarrow.compute as pc
from pydantic import Field

from anyecg_ray import cluster, storage, strip
from anyecg_ray.backfill import Backfill, backfill
from anyecg_ray.config import Location, Settings
from anyecg_ray.evaluate import Evaluate, evaluate
from anyecg_ray.manifest import Manifest, manifest, open_manifest, read_rows
from anyecg_ray.predict import Source, fetch
from anyecg_ray.prepare import prepare
from anyecg_ray.prepare_inputs import Prepare
from anyecg_ray.preprocess import recipe
from anyecg_ray.synthetic import Synth, synth
from anyecg_ray.synthetic_visits import LIMIT
from anyecg_ray.train import Train, train
from anyecg_ray.train_loop import Learning

NOTE = "synthetic patients: no number here is about anybody · a research output, never a measurement"
SHOWN = ["span_id", "ecg_time", "indicator", "probability", "abnormal", "n_windows", "quality_flags", "status"]
INDICATORS = ["potassium_high", "calcium_low", "control_a_high"]
"""Two that shape the ECG, and one that has nothing to do with it."""


class Demo(Settings):
    """Make a synthetic archive, train a small model on it, evaluate it, score the archive, and show it all."""

    out: Location = "demo"
    """Folder for everything; a second run goes on where the first stopped."""

    encounters: int = Field(500, ge=1, le=LIMIT)
    """Visits in the archive."""

    minutes: float = Field(2.0, gt=0, le=480)
    """Median length of a recording."""

    epochs: int = Field(12, ge=1)
    """At most, of training."""

    seed: int = Field(0, ge=0)
    """Of the archive and of the weights."""


def demo(settings: Demo) -> None:
    """Run it, print the table's head, and write the page. Raises what the verbs raise."""
    with cluster.connected():  # once, and not for each verb
        _all_steps(settings)


def _all_steps(settings: Demo) -> None:
    n, minutes, seed = settings.encounters, settings.minutes, settings.seed
    archive, spans, segments, bundle, report, out = (
        storage.join(settings.out, name)
        for name in ("archive", "manifest.parquet", "segments", "bundle", "report", "estimates")
    )
    _say(f"anyecg synth --out {archive} --encounters {n} --minutes {minutes:g} --seed {seed}")
    synth(Synth(out=archive, encounters=n, minutes=minutes, seed=seed))
    _say(f"anyecg manifest --archive {archive} --dataset mc-med --out {spans}")
    manifest(Manifest(archive=archive, dataset="mc-med", out=spans))
    chosen = " ".join(f"--indicators {i}" for i in INDICATORS)
    _say(f"anyecg prepare --manifest {spans} --out {segments} --per-span 6 {chosen}")
    prepare(Prepare(manifest=spans, out=segments, per_span=6, indicators=INDICATORS))
    learning = Learning(epochs=settings.epochs, lr=0.003, batch=32)
    told = f"--learning.epochs {learning.epochs} --learning.lr {learning.lr} --learning.batch {learning.batch}"
    _say(f"anyecg train --segments {segments} --preset tiny {told} --seed {seed} --out {bundle}")
    train(Train(segments=segments, out=bundle, preset="tiny", learning=learning, seed=seed))
    _say(f"anyecg evaluate --segments {segments} --bundle {bundle} --update-card --out {report}")
    evaluate(Evaluate(segments=segments, bundle=bundle, update_card=True, out=report))
    _say(f"anyecg backfill --manifest {spans} --bundle {bundle} --out {out}")
    counts = backfill(Backfill(manifest=spans, bundle=bundle, out=out))
    rows = pd.read_parquet(storage.join(out, "ecg_lab_estimate"))
    _say(f"head of {storage.join(out, 'ecg_lab_estimate')} ({NOTE})", "")
    print(rows[SHOWN].head(6).to_string(index=False))
    drawn = picture(settings, rows)
    print(f"\npicture of one strip with its estimates: {drawn}" if drawn else "\nno strip could be scored: no picture")
    page = storage.join(settings.out, "index.html")
    storage.write_atomic(page, _page(rows, counts, drawn).encode())
    print(f"everything on one page, to be opened in a browser: {page}")


def _page(rows: pd.DataFrame, counts: Counter[str], drawn: str | None) -> str:
    """The strip, the table's head, the counts, and the way to the report."""
    css = (resources.files("anyecg_ray") / "report.css").read_text()
    head = rows[SHOWN].head(9).astype({"probability": float}).itertuples(index=False)
    rows_of_cells = ("".join(f"<td>{escape(_cell(v))}</td>" for v in row) for row in head)
    cells = "".join(f"<tr>{row}</tr>" for row in rows_of_cells)
    names = "".join(f'<th scope="col">{escape(c)}</th>' for c in SHOWN)
    told = "".join(f"<li><b>{n:,}</b>{escape(status)}</li>" for status, n in counts.most_common())
    image = '<img src="strip.png" style="max-width:100%" alt="An ECG strip with its estimates">' if drawn else ""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>anyecg demo</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<style>{css}</style></head><body><main><h1>anyecg demo</h1>"
        f'<p class="note"><strong>{escape(NOTE)}</strong></p>'
        f"<h2>One strip</h2>{image}"
        "<h2>How good the model is</h2>"
        '<p><a href="report/report.html">The evaluation on patients it has never seen</a>: '
        "potassium and calcium shape these ECGs, the control does not.</p>"
        f'<h2>Spans by status</h2><ul class="numbers">{told}</ul>'
        f'<h2>The table of estimates</h2><div class="wide" tabindex="0"><table><thead><tr>{names}</tr></thead>'
        f"<tbody>{cells}</tbody></table></div></main></body></html>\n"
    )


def _cell(value: object) -> str:
    match value:
        case float():
            return f"{value:.3f}"
        case np.ndarray():
            return ", ".join(value)
        case _:
            return str(value)


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
    for group in range(len(open_manifest(uri).row_groups)):
        rows = read_rows(uri, group)
        rows = rows.filter(pc.equal(rows.column("span_id"), span_id))
        if len(rows):
            break
    (span,) = fetch(rows, Source(uri, storage.join(settings.out, "archive"), recipe("ecgfounder-finetune", ("II",))))
    record = span.record()
    start = round(second * record.fs)
    return record.signals[0, start : start + round(10 * record.fs)], record.fs


def _say(line: str, prompt: str = "$ ") -> None:
    print(f"\n{prompt}{line}", flush=True)

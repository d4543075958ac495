"""A small segment store with a planted effect, so that one knows what can be learned from it, and what cannot."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from anyecg_ray import segments
from anyecg_ray.model import IndicatorCard
from anyecg_ray.preprocess import recipe
from anyecg_ray.segments import SegmentsCard

HIGH = IndicatorCard(key="potassium_high", analyte="potassium", name="Potassium", direction="high", unit="mmol/L")
CONTROL = IndicatorCard(key="control_a_high", analyte="control_a", name="control a", direction="high")
VALUE = IndicatorCard(key="potassium_value", analyte="potassium", name="Potassium", direction="value", unit="mmol/L")
PATIENTS = {"train": 120, "val": 40, "test": 60}
SAMPLES = 5000


def windows(potassium: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(n, 1, 5000): beats whose T wave is as high as potassium is."""
    t = np.arange(SAMPLES) / 500
    phase = (t[None] + rng.uniform(0, 0.8, (len(potassium), 1))) % 0.8
    x = np.exp(-(((phase - 0.3) / 0.012) ** 2) / 2)
    x += 0.35 * (potassium[:, None] - 3) * np.exp(-(((phase - 0.55) / 0.05) ** 2) / 2)
    x += rng.normal(0, 0.05, x.shape)
    x -= x.mean(axis=1, keepdims=True)
    return (x / x.std(axis=1, keepdims=True)).astype(np.float32)[:, None]


def write(folder: Path, each: int = 4, seed: int = 0, **card: object) -> SegmentsCard:
    """Write a store with `each` windows of every patient; a quarter of the controls is not measured."""
    rng = np.random.default_rng(seed)
    indicators = [HIGH, CONTROL, VALUE]
    schema = segments.schema_of([i.key for i in indicators], SAMPLES)
    counts: dict[str, dict[str, dict[str, int]]] = {}
    number = 0
    for split, patients in PATIENTS.items():
        tables = []
        for part in range(2):
            rows = [_patient(number + i, each, schema, rng) for i in range(patients // 2)]
            number += patients // 2
            tables.append(pa.concat_tables(rows))
            target = folder / f"split={split}"
            target.mkdir(parents=True, exist_ok=True)
            pq.write_table(tables[-1], target / f"part-{part}.parquet")
        whole = pa.concat_tables(tables)
        counts[split] = {i.key: _count(whole, i) for i in indicators}
    made = SegmentsCard(
        **{
            "dataset": "mc-med",
            "recipe": recipe("ecgfounder-finetune", ("II",)).to_dict(),
            "preprocess_fingerprint": recipe("ecgfounder-finetune", ("II",)).fingerprint(),
            "indicators": indicators,
            "counts": counts,
            "windows": {s: n * each for s, n in PATIENTS.items()},
            "patients": PATIENTS,
            "drops": {"window: noisy": 7},
            "settings": {"split": "random", "clock": "order", "align": {"before": 240, "after": 240}},
            "fingerprint": f"store{seed}",
        }
        | card
    )
    (folder / segments.CARD).write_text(made.model_dump_json())
    return made


def _patient(number: int, each: int, schema: pa.Schema, rng: np.random.Generator) -> pa.Table:
    potassium = rng.normal(4.2, 0.3) + (1.6 if rng.random() < 0.35 else 0)
    measured = potassium + rng.normal(0, 0.4)  # the laboratory errs too: nothing can be perfect
    control = float(rng.random() < 0.3) if rng.random() < 0.75 else np.nan
    scale, samples = segments.quantised(windows(np.full(each, potassium), rng))
    start = datetime(2290, 1, 1, tzinfo=UTC) + timedelta(days=number)
    same = {
        "span_id": f"r{number}#0", "record_id": f"r{number}", "patient_id": f"p{number}", "encounter_id": f"e{number}",
        "age": float(rng.integers(20, 90)), "sex": "FM"[rng.integers(2)],
    }  # fmt: skip
    columns = {k: [v] * each for k, v in same.items()} | {
        "segment_id": [f"r{number}#0@{10 * i}" for i in range(each)],
        "time": [start + timedelta(seconds=10 * i) for i in range(each)],
    }
    arrays = {k: pa.array(v, schema.field(k).type) for k, v in columns.items()} | {
        "scale": pa.array(scale),
        "samples": samples,
    }
    for indicator, y in ((HIGH, float(measured > 5.1)), (CONTROL, control), (VALUE, measured)):
        arrays[segments.label(indicator.key)] = pa.array([y] * each, pa.float32(), from_pandas=True)
    return pa.table([arrays[f.name] for f in schema], schema=schema)


def _count(rows: pa.Table, indicator: IndicatorCard) -> dict[str, int]:
    y = rows[segments.label(indicator.key)].drop_null().to_numpy()
    positive = len(y) if indicator.direction == "value" else int((y > 0).sum())
    return {"positive": positive, "negative": len(y) - positive}

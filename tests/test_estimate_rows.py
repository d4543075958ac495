"""From staging to the table: means of logits, calibration once, and a row for everything."""

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest

from anyecg_ray import schema
from anyecg_ray.estimate_rows import publishable
from anyecg_ray.ledger import with_provenance
from anyecg_ray.model import Calibration, IndicatorCard
from anyecg_ray.weights import untrained

WHEN = datetime(2291, 3, 1, tzinfo=UTC)
PROVENANCE = {
    "model_id": "m", "model_version": "1", "weights_sha256": "w", "preprocess_fingerprint": "p",
    "code_version": "0", "run_id": "r", "estimated_at": WHEN,
}  # fmt: skip


@pytest.fixture
def card():
    base = untrained("tiny", ["potassium_high"], ["II"], "ecgfounder-finetune", 0).card
    high = IndicatorCard(key="potassium_high", analyte="potassium", name="K", direction="high", loinc="2823-3",
                         unit="mmol/L", threshold=0.6)  # fmt: skip
    value = IndicatorCard(key="potassium_value", analyte="potassium", name="K", direction="value", offset=4, scale=0.5)
    return base.model_copy(update={"indicators": [high, value]})


def staging(spans):
    """spans: (status, window starts, quality, logits a window or None)."""
    rows = {
        "span_id": [f"s{i}#0" for i in range(len(spans))],
        "record_id": [f"s{i}" for i in range(len(spans))],
        "dataset": ["wfdb"] * len(spans),
        "patient_id": [None] * len(spans),
        "encounter_id": ["e"] * len(spans),
        "start_time": [WHEN] * len(spans),
        "status": [s[0] for s in spans],
        "status_detail": [None] * len(spans),
        "window_start": [s[1] for s in spans],
        "quality": [s[2] for s in spans],
        "values": [s[3] for s in spans],
    }
    return with_provenance(
        pa.table({k: pa.array(v, schema.STAGING.field(k).type) for k, v in rows.items()}), PROVENANCE
    )


SPANS = [
    ("ok", [0, 10, 20], ["", "noisy", "uncalibrated"], [[2.0, 0.2, 0.0], None, [0.0, 0.4, 0.0]]),
    ("flat", [0], ["flat"], [None]),
    ("missing_signal", [], [], []),
]


def test_a_span_has_the_calibrated_mean_logit(card):
    rows = publishable(staging(SPANS), card).to_pylist()
    assert len(rows) == 6
    first, value = rows[0], rows[1]
    assert first["probability"] == pytest.approx(1 / (1 + np.exp(-1)))
    assert (first["n_windows"], first["abnormal"], first["loinc"]) == (2, True, "2823-3")
    assert first["quality_flags"] == ["noisy", "uncalibrated"]
    assert first["window_start"] is None
    assert value["value"] == pytest.approx(4 + 0.5 * 0.3)
    assert value["upper"] - value["value"] == pytest.approx(1.96 * 0.5, abs=1e-3)
    assert value["probability"] is None
    assert value["abnormal"] is None


def test_what_was_not_scored_has_rows_without_numbers(card):
    rows = publishable(staging(SPANS), card).to_pylist()[2:]
    assert [r["status"] for r in rows] == ["flat"] * 2 + ["missing_signal"] * 2
    numbers = ("probability", "value", "lower", "upper", "abnormal")
    assert {r[n] for r in rows for n in numbers} == {None}
    assert {r["n_windows"] for r in rows} == {0}


def test_windows_each_by_itself(card):
    rows = publishable(staging(SPANS), card, "window").to_pylist()
    assert len(rows) == (3 + 1 + 1) * 2
    mine = [r for r in rows if r["indicator"] == "potassium_high"]
    assert [r["window_start"] for r in mine] == [0, 10, 20, 0, None]
    assert [r["probability"] for r in mine] == [
        pytest.approx(1 / (1 + np.exp(-2))),
        None,
        pytest.approx(0.5),
        None,
        None,
    ]
    assert [r["quality_flags"] for r in mine] == [[], ["noisy"], ["uncalibrated"], ["flat"], []]
    assert [(r["ecg_time"] - WHEN).total_seconds() for r in mine] == [0, 10, 20, 0, 0]
    assert [r["n_windows"] for r in mine] == [1, 0, 1, 0, 0]


def test_calibration_applies_to_the_mean(card):
    card.indicators[0] = card.indicators[0].model_copy(
        update={"calibration": Calibration(method="platt", slope=0.5), "threshold": 0.9}
    )
    row = publishable(staging(SPANS), card).to_pylist()[0]
    assert row["probability"] == pytest.approx(1 / (1 + np.exp(-0.5)))
    assert row["abnormal"] is False


@pytest.mark.parametrize("granularity", ["span", "window"])
def test_any_number_of_spans_has_the_schema(card, granularity):
    for n in (0, 1, 3):
        assert publishable(staging(SPANS[:n]), card, granularity).schema == schema.ECG_LAB_ESTIMATE


def test_slices_and_chunks_make_no_difference(card):
    whole = staging(SPANS * 4)
    chunks = pa.concat_tables([whole.slice(0, 5), whole.slice(5)])
    assert publishable(chunks, card).equals(publishable(whole, card))

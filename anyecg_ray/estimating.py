"""One ECG through one model: preprocess, predict and build the answer, with the back-fill's own functions.

The caller passes in what predicts: a model behind Ray Serve, or one in this process. While a new version of a model is
rolled out, the old one or the new one may answer. They differ in the hash of their weights or in the fingerprint of
their preprocessing, and an estimate bears the card of the one that computed it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from anyecg_ray import example, trace
from anyecg_ray.estimate_rows import Granularity, mean_logits, numbers, publishable
from anyecg_ray.header import RecordError
from anyecg_ray.http_problems import Problem, busy, of_record
from anyecg_ray.ledger import provenance
from anyecg_ray.messages import DISCLAIMER, Answer, Estimate, ModelName, Strip, Window
from anyecg_ray.model import Card, IndicatorCard
from anyecg_ray.preprocess import Recipe, Windows, preprocess
from anyecg_ray.request_ecg import Ecg
from anyecg_ray.schema import STAGING, Status

CHUNK = 32
"""Windows that are sent to a model at a time: a batch's worth, so that a long ECG does not hold up the others."""

AT_ONCE = 2
"""Chunks of one ECG that are predicted at a time."""

SCORABLE = (Status.OK, Status.NON_FINITE, Status.FLAT, Status.CLIPPED, Status.NOISY, Status.AMPLITUDE)
"""Statuses that are an answer (HTTP 200); any other becomes a 422."""


class Predicted(NamedTuple):
    """What a model answered."""

    logits: np.ndarray | None
    """(windows, columns) float32; None where its preprocessing is not that of the windows."""
    card: Card | None
    """Of the model that answered, where that is not the one that was asked for."""


Predict = Callable[[np.ndarray, Card], Awaitable[Predicted]]
"""(windows, leads, samples) float32, and the card of the model that they were made for. Raises Problem (503)."""


@dataclass(frozen=True)
class Served:
    """A model that can be asked."""

    card: Card
    predict: Predict


class Scored(NamedTuple):
    """One ECG's logits, and what they were computed with and from."""

    card: Card
    windows: Windows
    logits: np.ndarray
    """(usable windows, columns) float32."""
    start_time: datetime | None
    """Of the first sample, in UTC."""


async def score(ecg: Ecg, served: Served, pool: Executor) -> Scored:
    """Preprocess in the pool and predict. Raises Problem: 422 for what cannot be read, 503 where no model answers."""
    card = served.card
    for _ in range(3):
        windows, start = await asyncio.get_running_loop().run_in_executor(pool, _windows, ecg, card)
        if not len(windows.x):
            return Scored(card, windows, np.empty((0, card.columns), np.float32), start)
        parts = await _chunks(windows.x, card, served.predict)
        cards = {(p.card.weights_sha256, p.card.preprocess_fingerprint): p.card for p in parts if p.card is not None}
        answers = [p.logits for p in parts if p.logits is not None]
        if len(answers) == len(parts) and (not cards or (len(cards) == 1 and all(p.card for p in parts))):
            return Scored(next(iter(cards.values()), card), windows, np.concatenate(answers), start)
        card = next(iter(cards.values()), card)  # another version, which reads other windows, or a part of these
    raise busy("the model is being replaced", 2)


async def _chunks(x: np.ndarray, card: Card, predict: Predict) -> list[Predicted]:
    parts = [x[i : i + CHUNK] for i in range(0, len(x), CHUNK)]
    found: list[Predicted] = []
    for i in range(0, len(parts), AT_ONCE):
        found += await asyncio.gather(*(predict(part, card) for part in parts[i : i + AT_ONCE]))
    return found


def warm(card: Card) -> None:
    """Preprocess an example, so that what is compiled at its first use is compiled before the first request."""
    with suppress(Problem):  # windows longer than the example
        _windows(Ecg(example.record()), card)


def _windows(ecg: Ecg, card: Card) -> tuple[Windows, datetime | None]:
    """What preprocessing makes of the ECG, and the time of its first sample. Raises Problem (422)."""
    recipe = Recipe.from_dict(card.recipe)
    try:
        record = ecg.read(recipe.leads)
        windows = preprocess(record, recipe)
    except RecordError as error:
        raise of_record(error) from None
    if windows.status not in SCORABLE:
        raise of_record(RecordError(windows.status, windows.detail))
    return windows, record.start


def strip(ecg: Ecg, card: Card) -> Strip:
    """The ECG for drawing; the model's leads alone where others cannot be read. Raises Problem (422)."""
    for wanted in (None, Recipe.from_dict(card.recipe).leads):
        try:
            return trace.strip(ecg.read(wanted))
        except RecordError as error:
            last = error
    raise of_record(last)


def answer(request_id: str, scored: Scored, granularity: Granularity, drawn: Strip | None) -> Answer:
    """The answer to one ECG."""
    card, windows = scored.card, scored.windows
    usable = np.flatnonzero(windows.usable)
    if granularity == "span":
        means, _ = mean_logits(np.zeros(len(usable), np.int64), scored.logits.astype(np.float64), 1)
        estimates = _estimates(card, means, [None])
    else:
        each = np.full((len(windows.start), card.columns), np.nan)
        each[usable] = scored.logits
        estimates = _estimates(card, each, windows.start.tolist())
    told: dict[str, Any] = {} if drawn is None else {"strip": drawn}
    return Answer.model_construct(
        id=request_id,
        model=ModelName(name=card.model_id, version=card.model_version, weights_sha256=card.weights_sha256),
        status=str(windows.status),
        status_detail=windows.detail or None,
        n_windows=len(usable),
        windows=[
            Window(start=start, usable=bool(used), flags=list(flags))
            for start, used, flags in zip(windows.start.tolist(), windows.usable, windows.flags, strict=True)
        ],
        estimates=estimates,
        disclaimer=DISCLAIMER,
        **told,
    )


def rows(request_id: str, scored: Scored, granularity: Granularity) -> pa.Table:
    """The answer as rows of schema.ECG_LAB_ESTIMATE; the request stands for span and record."""
    windows, card = scored.windows, scored.card
    each: list[list[float] | None] = [None] * len(windows.start)
    for i, logits in zip(np.flatnonzero(windows.usable), scored.logits.tolist(), strict=True):
        each[i] = logits
    span = {
        "span_id": request_id,
        "record_id": request_id,
        "dataset": "request",
        "status": str(windows.status),
        "status_detail": windows.detail or None,
        "start_time": scored.start_time,
        "window_start": windows.start.tolist(),
        "quality": ["|".join(flags) for flags in windows.flags],
        "values": each,
        **provenance(card, request_id),
    }
    return publishable(pa.Table.from_pylist([span], schema=STAGING), card, granularity)


def _estimates(card: Card, logits: np.ndarray, starts: Sequence[float | None]) -> list[Estimate]:
    """logits: (units, columns), NaN where there is no estimate. starts: of each unit, None for the whole ECG."""
    # float32, as the published table has it
    found = {name: v.astype(np.float32).tolist() for name, v in numbers(logits, card).items()}
    return [
        _estimate(indicator, {name: v[unit][i] for name, v in found.items()}, start)
        for unit, start in enumerate(starts)
        for i, indicator in enumerate(card.indicators)
    ]


def _estimate(indicator: IndicatorCard, told: dict[str, float], start: float | None) -> Estimate:
    plain: dict[str, Any] = {name: None if v != v else v for name, v in told.items()}
    plain |= {} if start is None else {"window_start": start}
    plain["abnormal"] = None if plain["abnormal"] is None else bool(plain["abnormal"])
    return Estimate.model_construct(
        indicator=indicator.key,
        analyte=indicator.analyte,
        name=indicator.name,
        direction=indicator.direction,
        loinc=indicator.loinc,
        unit=indicator.unit,
        calibrated=indicator.calibration is not None,
        threshold=indicator.threshold,
        tier=indicator.tier,
        auroc=indicator.auroc,
        auroc_low=indicator.auroc_low,
        auroc_high=indicator.auroc_high,
        **plain,
    )

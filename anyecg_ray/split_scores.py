"""Score one split of a segment store: every window once, by every model that is to be compared.

All models see the same windows in the same order, so that their differences are paired. The samples are read
once and not kept; what is kept is a few numbers per window and indicator.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from anyecg_ray import baselines, segments
from anyecg_ray.backends import Estimator
from anyecg_ray.baselines import Fitted, Rows
from anyecg_ray.model import Card, IndicatorCard, first_columns
from anyecg_ray.owners import key, person
from anyecg_ray.preprocess import Recipe

SIGNAL = "x"
"""Key of the windows in a batch, (n, leads, samples) float32."""


@dataclass(frozen=True)
class Predictions:
    """One row per window that has a label, in the store's order."""

    indicators: list[IndicatorCard]
    """Those of the bundle that the store has labels for."""
    patient: np.ndarray
    """(n,) int, numbered from 0; a window of nobody known is a patient of its own encounter."""
    encounter: np.ndarray
    """(n,) int, numbered from 0, those of each patient apart; where there is none, the record takes its place."""
    groups: dict[str, np.ndarray]
    """By column, what slices are made of: (n,) of any kind; `age` and `sex` always."""
    time: np.ndarray
    """(n,) datetime64[us], NaT where unknown."""
    labels: np.ndarray
    """(n, indicators) float32: 1, 0 or the value, NaN where not measured."""
    estimates: dict[str, np.ndarray]
    """By model, (n, indicators) float32: `model`, `compare`, and the baselines. NaN where it has none."""
    ids: dict[str, np.ndarray]
    """segment_id, patient_id and encounter_id as the store has them."""


def score(
    batches: Iterable[Mapping[str, Any]],
    indicators: Sequence[IndicatorCard],
    models: Mapping[str, Estimator],
    fitted: Fitted | None,
    recipe: Recipe,
    extra: Sequence[str] = (),
) -> Predictions:
    """Estimates of every window that bears a label, by every model and baseline.

    batches: as `batches` gives them: identity, SIGNAL, the labels and the columns `extra`. recipe: the windows' own.
    """
    kept: list[dict[str, np.ndarray]] = []
    for batch in batches:
        labels = _labels(batch, indicators)
        some = np.isfinite(labels).any(axis=1)
        if some.any():
            part = {k: np.asarray(v)[some] for k, v in batch.items() if k in (*segments.IDENTITY.names, SIGNAL, *extra)}
            kept.append(_scored(part, labels[some], indicators, models, fitted, recipe, extra))
    return _joined(kept, indicators, [*models, *(baselines.NAMES if fitted else ())], extra)


def training_rows(
    batches: Iterable[Mapping[str, Any]],
    indicators: Sequence[IndicatorCard],
    recipe: Recipe,
    settings: baselines.Baselines,
) -> Rows:
    """Windows to fit the baselines on: the first few of each encounter, until there are enough."""
    kept: list[dict[str, np.ndarray]] = []
    taken: dict[Any, int] = {}
    total = 0
    for batch in batches:
        labels = _labels(batch, indicators)
        pick = _first_few(_encounter_ids(batch), np.isfinite(labels).any(axis=1), taken, settings.windows_per_encounter)
        pick = pick[: settings.max_windows - total]
        part = {k: np.asarray(v)[pick] for k, v in batch.items() if k in (*segments.IDENTITY.names, SIGNAL)}
        measured = baselines.measure(part[SIGNAL], recipe.leads, recipe.fs)
        kept.append({**_who(part), "labels": labels[pick], "measured": measured})
        total += len(pick)
        if total >= settings.max_windows:
            break
    whole = {k: np.concatenate([part[k] for part in kept]) for k in kept[0]}
    return Rows(
        age=whole["age"],
        sex=whole["sex"],
        measured=whole["measured"],
        labels=whole["labels"],
        patient=_numbered(whole["patient"]),
        encounter=_numbered(whole["encounter"]),
    )


def columns(card: Card, values: np.ndarray) -> dict[str, np.ndarray]:
    """By indicator key, its probabilities, or the mean of its value, from what `Estimator.estimate` returns."""
    first = first_columns(card.indicators)
    return {i.key: values[:, column] for i, column in zip(card.indicators, first, strict=False)}


def _scored(
    part: dict[str, np.ndarray],
    labels: np.ndarray,
    indicators: Sequence[IndicatorCard],
    models: Mapping[str, Estimator],
    fitted: Fitted | None,
    recipe: Recipe,
    extra: Sequence[str],
) -> dict[str, np.ndarray]:
    out = {**_who(part), **{name: part[name] for name in extra}, "labels": labels, "time": _times(part["time"])}
    out |= {name: part[name] for name in ("segment_id", "patient_id", "encounter_id")}
    windows = part[SIGNAL]
    for name, estimator in models.items():
        found = columns(estimator.card, estimator.estimate(windows))
        nothing = np.full(len(labels), np.nan, np.float32)
        out[f"p:{name}"] = np.column_stack([found.get(i.key, nothing) for i in indicators])
    if fitted is not None:
        measured = baselines.measure(windows, recipe.leads, recipe.fs)
        out |= {f"p:{k}": v for k, v in fitted.predict(out["age"], out["sex"], measured).items()}
    return out


def _joined(
    kept: list[dict[str, np.ndarray]], indicators: Sequence[IndicatorCard], names: Sequence[str], extra: Sequence[str]
) -> Predictions:
    if not kept:
        raise ValueError("no window bears a label")
    whole = {k: np.concatenate([part[k] for part in kept]) for k in kept[0]}
    return Predictions(
        indicators=list(indicators),
        patient=_numbered(whole["patient"]),
        encounter=_numbered(whole["encounter"]),
        groups={name: whole[name] for name in ("age", "sex", *extra)},
        time=whole["time"],
        labels=whole["labels"],
        estimates={name: whole[f"p:{name}"] for name in names},
        ids={name: whole[name] for name in ("segment_id", "patient_id", "encounter_id")},
    )


def _labels(batch: Mapping[str, Any], indicators: Sequence[IndicatorCard]) -> np.ndarray:
    return np.column_stack([_floats(batch[segments.label(i.key)]) for i in indicators])


def _who(part: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    encounter = _encounter_ids(part)
    ids = (part[k] for k in ("encounter_id", "patient_id", "record_id"))
    patient = np.array([person(*who) for who in zip(*ids, strict=True)], object)
    sex = np.where(_known(part["sex"]), part["sex"].astype(object), "")
    return {"patient": patient, "encounter": encounter, "age": _floats(part["age"]), "sex": sex}


def _encounter_ids(part: Mapping[str, Any]) -> np.ndarray:
    given, record, patient = (np.asarray(part[k], object) for k in ("encounter_id", "record_id", "patient_id"))
    encounter = np.where(_known(given), given, np.array([f"record {r}" for r in record], object))
    # some archives number encounters anew for each patient
    return np.array(
        [key(e, p if known else None) for e, p, known in zip(encounter, patient, _known(patient), strict=True)], object
    )


def _first_few(encounter: np.ndarray, usable: np.ndarray, taken: dict[Any, int], most: int) -> np.ndarray:
    """Rows of a batch that are among the first `most` usable ones of their encounter; `taken` counts across batches."""
    pick = []
    for row in np.flatnonzero(usable):
        count = taken.get(encounter[row], 0)
        if count < most:
            taken[encounter[row]] = count + 1
            pick.append(row)
    return np.array(pick, np.int64)


def _floats(column: Any) -> np.ndarray:
    column = np.asarray(column)
    if column.dtype == object:  # None where missing
        column = np.array([np.nan if v is None else v for v in column], np.float32)
    return column.astype(np.float32, copy=False)


def _times(column: Any) -> np.ndarray:
    return np.asarray(column).astype("datetime64[us]")


def _known(column: np.ndarray) -> np.ndarray:
    return np.array([v is not None and v == v and v != "" for v in column], bool)


def _numbered(names: np.ndarray) -> np.ndarray:
    return np.asarray(np.unique(names.astype(str), return_inverse=True)[1])


def batches(
    uri: str, split: str, batch: int, indicators: Sequence[IndicatorCard], leads: int, extra: Sequence[str] = ()
) -> Iterator[dict[str, Any]]:
    """The split's windows with what `score` and `training_rows` need, as arrays by column."""
    wanted = [*segments.IDENTITY.names, "samples", "scale", *(segments.label(i.key) for i in indicators), *extra]
    for rows in segments.batches(uri, split, batch, wanted):
        plain = [c for c in wanted if c not in ("samples", "scale")]
        yield {SIGNAL: segments.windows(rows, leads), **{c: _column(rows, c) for c in plain}}


def _column(rows: Any, name: str) -> np.ndarray:
    column = rows.column(name)
    if name == "time":
        return np.array([None if t is None else t.replace(tzinfo=None) for t in column.to_pylist()], "datetime64[us]")
    return np.asarray(column.to_numpy(zero_copy_only=False))

"""How good a bundle is on patients that it has never seen, set against what is simple, and what could flatter it.

Every figure of the bundle has an interval from 1,000 draws of patients (not windows), the number of patients behind it,
and none is given where there are too few. Thresholds and calibration are the bundle's own, fitted on validation data.
"""

import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pyarrow.parquet as pq
from pydantic import Field, NonNegativeInt, model_validator

from anyecg_ray import (
    __version__,
    baselines,
    bootstrap,
    card_figures,
    json_file,
    leakage,
    metrics,
    metrics_table,
    model,
    report,
    segments,
    split_scores,
    storage,
)
from anyecg_ray.backends import Compute, Estimator
from anyecg_ray.baselines import Baselines
from anyecg_ray.config import InputError, Location
from anyecg_ray.leakage import Check
from anyecg_ray.model import Bundle, IndicatorCard
from anyecg_ray.segments import SegmentsCard
from anyecg_ray.split_scores import Predictions

PAPER = {"strong": 33, "moderate": 59, "limited": 16}
"""AnyECG-Lab's own counts, by tier, among its 108 indicators."""


class Evaluate(Compute):
    """Measure a bundle on a split of segments and write a report."""

    segments: Location
    """What `anyecg prepare` wrote."""

    bundle: Location
    """The model to be judged."""

    out: Location
    """Where metrics.parquet, report.json and report.html go."""

    split: str = "test"
    """Which patients: test; train and val only to try things out, their figures are flattered."""

    compare: Location | None = None
    """Another bundle, scored on the same windows: differences are paired."""

    update_card: bool = False
    """Put each indicator's AUROC, its interval and its tier into the bundle's card, for answers and the page to say."""

    by: list[str] = []
    """Further columns of the segments that make slices; age bands and sex always do."""

    age_bands: list[NonNegativeInt] = [40, 65, 80]
    """Where age bands begin."""

    min_patients: int = Field(5, ge=1)
    """Patients with a positive, and with a negative, that a figure needs."""

    draws: int = Field(1000, ge=1)
    """Of the bootstrap."""

    seed: int = Field(0, ge=0)
    """Of the bootstrap."""

    baselines: Baselines = Baselines()
    """What the simple models are fitted on."""

    @model_validator(mode="after")
    def _is_usable(self) -> Self:
        if self.update_card and self.split != "test":
            raise InputError(f"setting update-card: a card takes figures of the test split, not of {self.split}")
        return self


@dataclass(frozen=True)
class Evaluation:
    """Everything that the report shows."""

    card: SegmentsCard
    bundle: Bundle
    settings: Evaluate
    found: Predictions
    rows: list[dict[str, Any]]
    checks: list[Check]
    computed_by: str
    fitted_on: int
    """Training windows that the simple models saw."""

    def overall(self) -> list[dict[str, Any]]:
        """Rows of the whole split by encounter, the best AUROC first."""
        mine = [r for r in self.rows if r["slice"] == "all" and r["level"] == "encounter"]
        return sorted(mine, key=lambda r: -float(-1 if r.get("auroc") is None else r["auroc"]))


def evaluate(settings: Evaluate) -> Evaluation:
    """Evaluate, write the three files and print the table. Raises InputError where something does not fit."""
    card, bundle = segments.read_card(settings.segments), model.load(settings.bundle)
    if settings.update_card:
        storage.check_writable(storage.join(settings.bundle, model.CARD))
    indicators = _common(card, bundle, settings)
    checks = _checks_before(card, bundle, settings)
    estimators = {"model": Estimator(bundle, settings)}
    if settings.compare:
        other = model.load(settings.compare)
        segments.check_preprocessing(card, other, settings.compare)
        told = leakage.trained_here(other.card, card.fingerprint, settings.split, "compared bundle")
        checks.append(told._replace(bars=False))  # what flatters the other model does not flatter this one
        estimators["compare"] = Estimator(other, settings)
    fitted, seen = _baselines(settings, card, indicators)
    recipe = card.preprocessing()
    batches = split_scores.batches(settings.segments, settings.split, 512, indicators, len(recipe.leads), settings.by)
    try:
        found = split_scores.score(batches, indicators, estimators, fitted, recipe, settings.by)
        slices = metrics_table.slices(found.groups, settings.age_bands)
    except ValueError as error:
        raise InputError(f"{settings.segments}: {error}") from None
    times = bootstrap.multiplicities(int(found.patient.max()) + 1, settings.draws, settings.seed)
    rows = [dict(metrics_table.clean(r)) for r in metrics_table.rows(found, slices, times, settings.min_patients)]
    checks += [leakage.too_good(rows), leakage.controls(rows)]
    it = Evaluation(card, bundle, settings, found, rows, checks, str(estimators["model"].choice), seen)
    _write(it)
    _print(it)
    if settings.update_card:
        _update_card(it)
    return it


def _common(card: SegmentsCard, bundle: Bundle, settings: Evaluate) -> list[IndicatorCard]:
    """The bundle's indicators of which the segments have labels; the segments must be made as the bundle reads them."""
    segments.check_preprocessing(card, bundle, settings.bundle)
    labelled = {i.key for i in card.indicators}
    common = [i for i in bundle.card.indicators if i.key in labelled]
    if not common:
        raise InputError(
            f"{settings.bundle}: estimates none of the segments' indicators ({', '.join(sorted(labelled)[:8])} …); "
            "give a bundle that was trained on such segments"
        )
    if not card.windows.get(settings.split):
        raise InputError(f"setting split: {settings.segments} has no windows in {settings.split}")
    _check_groups(settings)
    return common


def _check_groups(settings: Evaluate) -> None:
    there = segments.columns(settings.segments, settings.split)
    if lacking := [name for name in settings.by if name not in there]:
        told = ", ".join(n for n in there if n not in segments.IDENTITY.names) or "none beside age and sex"
        raise InputError(
            f"setting by: {settings.segments} has no column {lacking[0]}; there are {told} (they are what the data set "
            "told when the segments were prepared)"
        )


def _checks_before(card: SegmentsCard, bundle: Bundle, settings: Evaluate) -> list[Check]:
    """Refuse a patient or an encounter in two splits; say whether the model may have seen these patients."""
    checks = []
    for what, columns in (("patient", ["patient_id"]), ("encounter", ["encounter_id", "patient_id"])):
        members = {split: _members(settings.segments, split, columns) for split in card.windows}
        checks.append(leakage.disjoint(members, what, settings.segments))
    checks.append(leakage.trained_here(bundle.card, card.fingerprint, settings.split))
    values = [i for i in bundle.card.indicators if i.direction == "value" and i.key in {c.key for c in card.indicators}]
    train, judged = (_labels(settings.segments, split, values) for split in ("train", settings.split))
    checks.append(leakage.read_out([i.key for i in card.indicators]))
    checks.append(leakage.scales(values, train, judged, settings.split))
    return checks


def _members(uri: str, split: str, columns: list[str]) -> set[str | None]:
    """The distinct ids in a split, as one text each; rows without a value in the first column are left out."""
    rows = segments.batches(uri, split, 8192, columns)
    ids = {row for r in rows for row in zip(*(r.column(c).to_pylist() for c in columns), strict=True)}
    return {"\x1f".join(i or "" for i in row) for row in ids if row[0]}


def _labels(uri: str, split: str, indicators: Sequence[IndicatorCard]) -> np.ndarray:
    keys = [i.key for i in indicators]
    if not keys:
        return np.empty((0, 0))
    found = [
        segments.labels(rows, keys) for rows in segments.batches(uri, split, 8192, [segments.label(k) for k in keys])
    ]
    return np.concatenate(found) if found else np.empty((0, len(keys)))


def _baselines(
    settings: Evaluate, card: SegmentsCard, indicators: list[IndicatorCard]
) -> tuple[baselines.Fitted | None, int]:
    """The simple models, fitted on the training split; none where it has no windows."""
    if not card.windows["train"]:
        return None, 0
    recipe = card.preprocessing()
    batches = split_scores.batches(settings.segments, "train", 512, indicators, len(recipe.leads))
    rows = split_scores.training_rows(batches, indicators, recipe, settings.baselines)
    return baselines.fit(rows, indicators, settings.baselines), len(rows.age)


def tiers(rows: Sequence[dict[str, Any]]) -> dict[str, int]:
    """How many indicators are in each of AnyECG-Lab's tiers."""
    aurocs = [r["auroc"] for r in rows if r.get("auroc") is not None and not leakage.is_control(r["indicator"])]
    found: Counter[str] = Counter(card_figures.tier(a) for a in aurocs)
    return {name: found[name] for name in PAPER}


def curves(it: Evaluation) -> dict[str, dict[str, Any]]:
    """ROC and calibration of each indicator that has figures, over encounters."""
    drawn = {}
    told = {r["indicator"] for r in it.overall() if r.get("auroc") is not None}
    for k, indicator in enumerate(it.found.indicators):
        if indicator.key in told:
            level = metrics_table.encounter_level(it.found, k)
            p, positive = level.estimates["model"], level.y > 0.5
            drawn[indicator.key] = {
                "roc": metrics.roc_points(p, positive).tolist(),
                "calibration": metrics.calibration_bins(p, positive).tolist(),
            }
    return drawn


def _write(it: Evaluation) -> None:
    out = it.settings.out
    sink = io.BytesIO()
    pq.write_table(metrics_table.table(it.rows), sink)
    storage.write_atomic(storage.join(out, "metrics.parquet"), sink.getvalue())
    told = {
        "bundle": it.bundle.card.model_dump(exclude={"indicators", "training"}),
        "segments": {"fingerprint": it.card.fingerprint, "windows": it.card.windows, "patients": it.card.patients},
        "settings": it.settings.model_dump(),
        "computed_by": it.computed_by,
        "code_version": __version__,
        "tiers": tiers(it.overall()),
        "paper_tiers": PAPER,
        "checks": [c._asdict() for c in it.checks],
        "drops": it.card.drops,
        "indicators": it.overall(),
        "curves": curves(it),
    }
    json_file.write(storage.join(out, "report.json"), told)
    storage.write_atomic(
        storage.join(out, "report.html"), report.page(it, tiers(it.overall()), PAPER, curves(it)).encode()
    )


def _update_card(it: Evaluation) -> None:
    told = {
        "segments_fingerprint": it.card.fingerprint,
        "dataset": it.card.dataset,
        "split": it.settings.split,
        "level": "encounter",
        "patients": int(it.found.patient.max()) + 1,
        "code_version": __version__,
    }
    card_figures.update(it.settings.bundle, it.bundle.card, it.overall(), it.checks, told)
    print(f"card: {storage.join(it.settings.bundle, model.CARD)} has the figures by encounter")


def _print(it: Evaluation) -> None:
    patients = it.found.patient.max() + 1
    print(f"{it.settings.split}: {len(it.found.labels):,} windows of {patients:,} patients, by encounter:")
    for row in it.overall():
        print(f"  {row['indicator']:28} {_figure(row)}")
    for check in it.checks:
        print(f"{check.verdict}: {check.name}: {check.detail}")
    print(f"report: {storage.join(it.settings.out, 'report.html')}")


def _figure(row: dict[str, Any]) -> str:
    if row.get("note"):
        return str(row["note"])
    if row["direction"] == "value":
        return f"MAE {row['mae']:.3g} {row['unit'] or ''}, r {row['pearson']:.2f}"
    rivals = {k: row.get(f"{k}_auroc") for k in ("age_sex", "features", "compare")}
    beside = ", ".join(f"{k.replace('_', ' and ')} {v:.3f}" for k, v in rivals.items() if v is not None)
    interval = f"{_or_dash(row['auroc_low'])}–{_or_dash(row['auroc_high'])}"
    return f"AUROC {row['auroc']:.3f} ({interval}), {row['n_patients_positive']} positive patients; {beside}"


def _or_dash(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"

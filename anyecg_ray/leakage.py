"""What would make the figures too good: refused where it is certain, told in the report where it is likely.

Certain: a patient or an encounter in two splits, labels among the inputs, another preprocessing than the model's.
Likely: a model that was fitted on other segments (who can say on whom), a scale that fits the test data better than
the training data, figures that no ECG has reached, and negative controls that come out as anything but chance.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from anyecg_ray.baselines import READ_OUT
from anyecg_ray.config import InputError
from anyecg_ray.model import Card, IndicatorCard

CONTROL = "control_"
"""Analytes so named have nothing to do with the ECG: their AUROC must be 0.5."""

TOO_GOOD = 0.97
"""Lower end of an AUROC's interval above which the report asks for an explanation; 12-lead models with laboratory
values at hand reach 0.95 (facts of the field: NT-proBNP 0.90, potassium 0.94)."""


class Check(NamedTuple):
    """One question about leakage, and its answer."""

    name: str
    verdict: Literal["passed", "warning"]
    detail: str
    bars: bool = False
    """Whether such figures are kept out of the bundle's card."""


def is_control(key: str) -> bool:
    """Whether an indicator is a negative control."""
    return key.startswith(CONTROL)


def disjoint(members: Mapping[str, Iterable[str | None]], what: str, where: str) -> Check:
    """That no `what` (patient, encounter) is in two splits. members: by split. Raises InputError where one is."""
    seen: dict[str, str] = {}
    for split, ids in members.items():
        mine = {i for i in ids if i}
        if twice := mine & seen.keys():
            others = ", ".join(sorted({seen[i] for i in twice}))
            raise InputError(
                f"{where}: {len(twice):,} {what}s of split {split} are also in {others}; "
                f"figures would be of remembered {what}s: prepare the segments again with splits by patient"
            )
        seen |= dict.fromkeys(mine, split)
    counts = ", ".join(f"{split} {sum(s == split for s in seen.values()):,}" for split in members)
    return Check(f"No {what} in two splits", "passed", f"{len(seen):,} {what}s: {counts}")


def trained_here(card: Card, fingerprint: str, split: str, who: str = "model") -> Check:
    """Whether all that the bundle's weights have learnt from is the training split of these very segments."""
    name = f"The {who} never saw the {split} patients"
    if not card.trained:
        return Check(
            name, "warning", "the bundle is untrained: its weights are random, its estimates mean nothing", bars=True
        )
    others = list(dict.fromkeys(f for f in card.learnt_from if f != fingerprint))
    if others:
        told = ", ".join(f"segments {f}" if f else "data that its card does not name" for f in others)
        detail = f"its weights have learnt from {told}, and these are segments {fingerprint}"
        # other segments may be of the same archive, split otherwise; published weights are of another hospital's
        bars = any(others)
        return Check(name, "warning", f"{detail}: patients may be the same, make sure that they are not", bars)
    if split != "test":
        return Check(name, "warning", f"trained on these very segments: {_CHOSEN_ON[split]}", bars=True)
    return Check(name, "passed", "trained on the training split of these very segments")


_CHOSEN_ON = {
    "train": "networks and simple models are fitted on these patients, and figures are of what they remember",
    "val": "epoch, calibration and thresholds were chosen on these patients, which flatters every figure",
}
"""What makes a split's figures no judgement of new patients."""


def read_out(keys: Iterable[str]) -> Check:
    """That no simple model is given its own answer; names the indicators for which one was left out for that reason."""
    name, found = "No simple model reads its answer", [k for k in keys if k in READ_OUT]
    if not found:
        return Check(name, "passed", "they have age, sex and what a ruler measures on the ECG")
    return Check(name, "passed", f"age and sex are not set against {', '.join(found)}, which they are")


def scales(indicators: Sequence[IndicatorCard], train: np.ndarray, judged: np.ndarray, split: str) -> Check:
    """Whether a value's offset is the mean of the training labels, as it should be, and not of those judged.

    train, judged: (n, indicators) float, NaN where not measured.
    """
    name = f"Nothing fitted on the {split} split"
    if split != "test":
        return Check(name, "warning", _CHOSEN_ON[split], bars=True)
    suspects = [
        i.key
        for k, i in enumerate(indicators)
        if i.direction == "value" and _nearer_test(i.offset, train[:, k], judged[:, k])
    ]
    if suspects:
        detail = f"the card's offset is the test split's mean, not the training split's: {', '.join(suspects)}"
        return Check(name, "warning", detail, bars=True)
    return Check(
        name, "passed", "windows are normalised one by one; baselines were fitted on train, thresholds by the card"
    )


def _nearer_test(offset: float, train: np.ndarray, test: np.ndarray) -> bool:
    train, test = train[np.isfinite(train)], test[np.isfinite(test)]
    if len(train) < 2 or len(test) < 2:
        return False
    tolerance = 1e-3 * float(test.std())
    return bool(abs(offset - test.mean()) <= tolerance < abs(offset - train.mean()) / 10)


def too_good(rows: Sequence[Mapping[str, Any]]) -> Check:
    """Whether any figure is better than an ECG can explain, the baselines' included."""
    suspects = {
        f"{r['indicator']}{told}"
        for r in rows
        if r["slice"] == "all"
        for column, told in (
            ("auroc_low", ""),
            ("age_sex_auroc_low", " (age and sex)"),
            ("features_auroc_low", " (hand-measured)"),
        )
        if (r.get(column) or 0) > TOO_GOOD
    }
    name = "No figure too good to be true"
    if suspects:
        detail = (
            f"AUROC above {TOO_GOOD} for certain: {', '.join(sorted(suspects))}; look for the label among the inputs"
        )
        return Check(name, "warning", detail)
    return Check(name, "passed", f"no AUROC is above {TOO_GOOD} for certain")


def controls(rows: Sequence[Mapping[str, Any]]) -> Check:
    """Whether the negative controls came out as chance: 0.5 inside each interval, at either level."""
    name = "Negative controls are at chance"
    rows = [r for r in rows if is_control(r["indicator"]) and r["slice"] == "all"]
    told = [r for r in rows if r.get("auroc_low") is not None]
    if not rows:
        return Check(name, "passed", "there are none in these data")
    few = len({r["indicator"] for r in rows} - {r["indicator"] for r in told})
    untold = f"{few} have too few patients for an interval" if few else ""
    if not told:
        return Check(name, "warning", f"not known: {untold}")
    off = [r for r in told if not r["auroc_low"] <= 0.5 <= r["auroc_high"]]
    if off:
        detail = "; ".join(
            f"{r['indicator']} ({r['level']}) {r['auroc_low']:.2f} to {r['auroc_high']:.2f}" for r in off
        )
        return Check(
            name, "warning", f"0.5 is outside {len(off)} of {len(told)} intervals: {detail}; 1 in 20 is by chance"
        )
    return Check(name, "passed", f"0.5 is inside all {len(told)} intervals" + (f"; {untold}" if few else ""))

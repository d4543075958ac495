"""What an evaluation found, put into the bundle's card: answers and the page say it beside each estimate.

The card alone is written anew, in one step. Weights, version, fingerprints, calibration and thresholds stay as they
are, so that a back-fill that has begun goes on.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from anyecg_ray import model
from anyecg_ray.config import InputError
from anyecg_ray.leakage import Check
from anyecg_ray.model import Card, Tier


def tier(auroc: float) -> Tier:
    """AnyECG-Lab's: above 0.65, from 0.55, below."""
    return "strong" if auroc > 0.65 else "moderate" if auroc >= 0.55 else "limited"


def update(
    uri: str, judged: Card, rows: Sequence[Mapping[str, Any]], checks: Sequence[Check], told: dict[str, Any]
) -> None:
    """Write the card of the bundle at `uri` with these figures and no others: an indicator without one becomes null.

    judged: the card of the model that was evaluated. rows: one per indicator. told: where the figures are from; it goes
    to `metrics.test`, with what the checks warn of. Raises InputError where a check bars the figures, or the bundle has
    other weights by now.
    """
    for check in checks:
        if check.bars:
            raise InputError(
                f"setting update-card: the card stays as it was, for these figures may flatter: {check.detail}"
            )
    card = model.load_card(uri)
    if card.weights_sha256 != judged.weights_sha256:
        raise InputError(f"{uri}: its weights were replaced while they were evaluated; evaluate it again")
    found = {row["indicator"]: _figures(row) for row in rows}
    indicators = [i.model_copy(update=found.get(i.key, _figures({}))) for i in card.indicators]
    told = {**told, "warnings": [f"{c.name}: {c.detail}" for c in checks if c.verdict == "warning"]}
    model.save_card(card.model_copy(update={"indicators": indicators, "metrics": {**card.metrics, "test": told}}), uri)


def _figures(row: Mapping[str, Any]) -> dict[str, Any]:
    auroc = row.get("auroc")
    if auroc is None:
        return dict.fromkeys(("tier", "auroc", "auroc_low", "auroc_high"))
    return {"tier": tier(auroc), **{name: row.get(name) for name in ("auroc", "auroc_low", "auroc_high")}}

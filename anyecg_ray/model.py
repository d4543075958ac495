"""A bundle: the folder that holds one model, `model.safetensors` and `card.json`.

The card says everything that a prediction depends on besides the weights: the encoder's sizes, the
preprocessing, what each output means, calibration and thresholds. Loading runs no pickled code, loads
every tensor or none, and refuses a bundle whose preprocessing is not what this code would do.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import safetensors
from pydantic import BaseModel, ConfigDict, ValidationError

from anyecg_ray import __version__, storage
from anyecg_ray.config import InputError, fingerprint
from anyecg_ray.net1d_sizes import Sizes, misfit, shapes
from anyecg_ray.preprocess import PRESETS, Recipe, recipe

if TYPE_CHECKING:  # most who read a bundle never run its network on PyTorch, which takes two seconds to load
    import torch

    from anyecg_ray.net1d import Net1D

Tier = Literal["strong", "moderate", "limited"]

CARD, WEIGHTS = "card.json", "model.safetensors"
Z95 = 1.959964
"""Half-width of a 95% interval, in standard deviations."""


class _Card(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), use_attribute_docstrings=True, allow_inf_nan=False
    )


class Calibration(_Card):
    """How a raw probability becomes a calibrated one; fitted on validation data."""

    method: Literal["platt", "isotonic"]
    slope: float = 1.0
    """The logit is multiplied by it …"""
    intercept: float = 0.0
    """… and this is added."""
    x: list[float] = []
    """Isotonic: raw probabilities, rising …"""
    y: list[float] = []
    """… and the calibrated ones at them; between them it is linear."""


class IndicatorCard(_Card):
    """What one output of the model means."""

    key: str
    """Such as `potassium_high`; of a diagnosis its label."""
    analyte: str | None
    """Key of analytes.py; null for a diagnosis."""
    name: str
    direction: Literal["low", "high", "value", "present"]
    """`value`: the measurement itself, as mean and standard deviation. Otherwise a probability."""
    loinc: str | None = None
    unit: str | None = None
    """UCUM unit of the analyte."""
    threshold: float | None = None
    """Calibrated probability at and above which the estimate is flagged abnormal; fitted on validation data."""
    calibration: Calibration | None = None
    offset: float = 0.0
    """For a value: what the network's 0 stands for, in `unit`."""
    scale: float = 1.0
    """For a value: what the network's 1 adds, in `unit`."""
    tier: Tier | None = None
    """AUROC on test data above 0.65, from 0.55, below: AnyECG-Lab's tiers."""
    auroc: float | None = None
    """On test data, by encounter; `anyecg evaluate --update-card` puts it here, `metrics.test` says of which."""
    auroc_low: float | None = None
    """95% interval of the AUROC, by patients; null where it has none."""
    auroc_high: float | None = None


class Card(_Card):
    """The model card, `card.json`."""

    format: Literal[1] = 1
    model_id: str
    model_version: str
    encoder: dict[str, Any]
    recipe: dict[str, Any]
    preprocess_fingerprint: str
    indicators: list[IndicatorCard]
    weights_sha256: str
    source: str
    """Where the weights come from."""
    trained: bool
    """False: the weights are random and the estimates mean nothing."""
    licence: str
    code_version: str = __version__
    training: dict[str, Any] = {}
    """Fingerprint and counts of the training data, settings, seeds."""
    metrics: dict[str, Any] = {}

    @property
    def columns(self) -> int:
        """Numbers per window: one a probability, two (mean, standard deviation) a value."""
        return first_columns(self.indicators)[-1]

    @property
    def estimates_fingerprint(self) -> str:
        """Of what makes estimates of outputs: indicators, calibration, thresholds; not of how good they are."""
        skill = {"tier", "auroc", "auroc_low", "auroc_high"}
        return fingerprint([i.model_dump(exclude=skill) for i in self.indicators])

    @property
    def learnt_from(self) -> list[str | None]:
        """Fingerprints of all segments that the weights have learnt from, those of the bundles they started from first;
        None for data of which nothing is known."""
        if not self.trained:
            return []
        return [*self.training.get("started_from", []), self.training.get("segments_fingerprint")]


def first_columns(indicators: Sequence[IndicatorCard]) -> list[int]:
    """Where each indicator's outputs begin, and at the end how many there are: a value has two (mean, log variance)."""
    return list(accumulate((2 if i.direction == "value" else 1 for i in indicators), initial=0))


@dataclass(frozen=True)
class Bundle:
    """A model in memory: its card, and its weights as the file has them."""

    card: Card
    weights: bytes = field(repr=False)
    """safetensors."""

    @cached_property
    def recipe(self) -> Recipe:
        """The preprocessing that the model was trained with."""
        return Recipe.from_dict(self.card.recipe)

    def state(self) -> "dict[str, torch.Tensor]":
        """The weights by name, on the CPU."""
        import safetensors.torch

        return safetensors.torch.load(self.weights)

    def network(self) -> "Net1D":
        """The network with these weights in float32, ready to predict."""
        from anyecg_ray.net1d import Net1D

        net = Net1D(sizes(self.card.encoder), self.card.columns)
        net.load_state_dict(self.state(), strict=True)
        return net.eval().requires_grad_(False)


def make(
    state: "dict[str, torch.Tensor]",
    sizes: Sizes,
    preprocessing: Recipe,
    indicators: list[IndicatorCard],
    **card: Any,
) -> Bundle:
    """A bundle of these weights; its version is their hash. `card`: the remaining fields of Card."""
    import safetensors.torch

    blob = safetensors.torch.save({k: v.detach().cpu().contiguous() for k, v in state.items()})
    sha = hashlib.sha256(blob).hexdigest()
    return Bundle(
        Card(
            model_version=sha[:12],
            encoder={"kind": "net1d", **asdict(sizes)},
            recipe=preprocessing.to_dict(),
            preprocess_fingerprint=preprocessing.fingerprint(),
            indicators=indicators,
            weights_sha256=sha,
            **card,
        ),
        blob,
    )


def save(bundle: Bundle, uri: str) -> None:
    """Write the bundle; the card last, so that a folder with a card is a whole bundle. Raises StorageError."""
    storage.write_atomic(storage.join(uri, WEIGHTS), bundle.weights)
    save_card(bundle.card, uri)


def save_card(card: Card, uri: str) -> None:
    """Write the card alone, in one step. Raises StorageError."""
    storage.write_atomic(storage.join(uri, CARD), (card.model_dump_json(indent=2) + "\n").encode())


def load(uri: str) -> Bundle:
    """The bundle at a folder or s3:// prefix.

    Raises InputError where a file is missing or not what the card says, where a tensor is missing or
    unexpected, and where the preprocessing is not the one that this code would do.
    """
    card = load_card(uri)
    blob = _read(uri, WEIGHTS)
    if hashlib.sha256(blob).hexdigest() != card.weights_sha256:
        raise InputError(f"{storage.join(uri, WEIGHTS)}: not the weights that card.json names; copy the bundle again")
    found = {name: tuple(tensor["shape"]) for name, tensor in safetensors.deserialize(blob)}
    if told := misfit(found, shapes(sizes(card.encoder), card.columns)):
        raise InputError(f"{uri}: weights do not fit the card's encoder: {told}")
    return Bundle(card, blob)


def load_card(uri: str) -> Card:
    """The bundle's card, checked against the preprocessing in force. Raises InputError."""
    where = storage.join(uri, CARD)
    try:
        card = Card.model_validate(json.loads(_read(uri, CARD)))
        sizes(card.encoder)
    except (ValueError, TypeError) as error:  # ValidationError is a ValueError
        first = error.errors()[0] if isinstance(error, ValidationError) else None
        reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}" if first else str(error)
        raise InputError(f"{where}: not a model card ({reason})") from None
    check_preprocessing(card, where)
    return card


def check_preprocessing(card: Card, where: str) -> None:
    """Raise InputError, naming the fields that differ, unless the card's preprocessing is what this code does."""
    try:
        ours = Recipe.from_dict(card.recipe)
    except ValueError as error:
        raise InputError(f"{where}: preprocessing is not known to this version: {error}") from None
    if ours.fingerprint() == card.preprocess_fingerprint:
        return
    matching = [name for name in PRESETS if recipe(name, ours.leads).fingerprint() == card.preprocess_fingerprint]
    differ = ", ".join(ours.differences(recipe(matching[0], ours.leads))) if matching else "the recipe or its version"
    raise InputError(
        f"{where}: preprocessing {ours.fingerprint()} is not the {card.preprocess_fingerprint} that the model was "
        f"trained with (differs in: {differ}); use the bundle as it was made, or make it again"
    )


def decode(card: Card, logits: np.ndarray) -> np.ndarray:
    """The network's output as calibrated probabilities, and means and standard deviations of values.

    logits: (windows, columns) float32. Returns the same shape: for an indicator that is a value its mean and
    standard deviation in the analyte's unit (the network gives them standardised, the latter as log variance).
    """
    out = np.empty(logits.shape, np.float32)
    for indicator, column in zip(card.indicators, first_columns(card.indicators), strict=False):
        if indicator.direction == "value":
            out[:, column] = indicator.offset + indicator.scale * logits[:, column]
            out[:, column + 1] = indicator.scale * np.exp(0.5 * np.clip(logits[:, column + 1], -20, 20))
        else:
            out[:, column] = calibrated(logits[:, column], indicator.calibration)
    return out


def calibrated(logits: np.ndarray, calibration: Calibration | None) -> np.ndarray:
    """Probabilities of one indicator from its logits, any shape."""
    z = np.asarray(logits, np.float64)
    if calibration:
        z = calibration.slope * z + calibration.intercept
    p = 0.5 + 0.5 * np.tanh(0.5 * z)  # tanh form of the sigmoid: no overflow at either end
    if calibration and calibration.method == "isotonic":
        p = np.interp(p, calibration.x, calibration.y)
    return p


def sizes(encoder: dict[str, Any]) -> Sizes:
    """The encoder's sizes from a card. Raises ValueError for an encoder that this version does not know."""
    given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in encoder.items() if k != "kind"}
    if encoder.get("kind") != "net1d":
        raise ValueError(f"encoder.kind is {encoder.get('kind')!r}; this version knows net1d")
    return Sizes(**given)


def _read(uri: str, name: str) -> bytes:
    try:
        return storage.read_bytes(storage.join(uri, name))
    except storage.MissingObject:
        raise InputError(
            f"{uri}: not a bundle, it has no {name}; `anyecg init` or `import-weights` makes one"
        ) from None

"""Bundles from weights: import a published ECGFounder checkpoint, or start from random ones.

An import takes every tensor or fails with the list of those that do not fit: a model loaded in part
predicts plausible nonsense (the published loader hides it with strict=False).
"""

import difflib
import io
from dataclasses import replace
from importlib import resources
from pathlib import PurePosixPath
from pickle import UnpicklingError
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field

from anyecg_ray import analytes, model, storage
from anyecg_ray.config import InputError, Location, Settings
from anyecg_ray.model import Bundle, IndicatorCard
from anyecg_ray.net1d import Net1D
from anyecg_ray.net1d_sizes import Sizes, misfit, shapes
from anyecg_ray.preprocess import PRESETS, TWELVE_LEADS, Recipe, recipe

DEFAULT_RECIPE = "ecgfounder-finetune"

PRESET_SIZES = {
    "tiny": Sizes(base_filters=16, filters=(16, 32, 32, 64), blocks=(1, 1, 1, 1)),
    "small": Sizes(base_filters=32, filters=(32, 64, 64, 128, 128), blocks=(1, 2, 2, 2, 2)),
    "full": Sizes(),
}
"""tiny for tests, small for the demo and for training on a laptop, full is ECGFounder."""

INIT_INDICATORS = ("potassium_low", "potassium_high", "calcium_low", "creatinine_high", "hemoglobin_low")


class ImportWeights(Settings):
    """Turn a published ECGFounder checkpoint into a bundle."""

    checkpoint: Location
    """`1_lead_ECGFounder.pth` or `12_lead_ECGFounder.pth`, as published."""

    out: Location
    """Where the bundle goes: a folder or s3:// prefix."""

    preset: str = DEFAULT_RECIPE
    """Preprocessing: ecgfounder-finetune (filter and z-score) or ecgfounder-zscore (z-score alone)."""

    lead: str = "II"
    """The lead that a 1-lead model reads."""

    labels: Location | None = None
    """Text file with one label a line, for a checkpoint whose head is not the published 150 diagnoses."""

    name: str | None = None
    """Name of the model; by default the checkpoint's file name."""


class Init(Settings):
    """Make an untrained bundle: its estimates mean nothing."""

    out: Location
    """Where the bundle goes: a folder or s3:// prefix."""

    preset: Literal["tiny", "small", "full"] = "tiny"
    """Size of the network; full is ECGFounder's."""

    seed: int = Field(0, ge=0)
    """The same seed gives the same weights."""

    recipe: str = DEFAULT_RECIPE
    """Preprocessing: ecgfounder-finetune or ecgfounder-zscore."""

    leads: list[str] = ["II"]
    """The leads that the model reads."""

    indicators: list[str] = list(INIT_INDICATORS)
    """Keys such as potassium_high."""


def import_weights(settings: ImportWeights) -> Bundle:
    """Import a checkpoint and write the bundle. Raises InputError where it is not one or does not fit."""
    state = read_checkpoint(settings.checkpoint)
    leads = _leads(state, settings)
    labels = _labels(settings.labels)
    sizes = Sizes(in_channels=len(leads))
    check_fits(state, sizes, len(labels), settings.checkpoint)
    bundle = model.make(
        state,
        sizes,
        named_recipe(settings.preset, leads),
        [_diagnosis(label) for label in labels],
        model_id=settings.name or PurePosixPath(settings.checkpoint).stem,
        source=f"imported from {PurePosixPath(settings.checkpoint).name}",
        trained=True,
        licence="MIT (ECGFounder)",
    )
    model.save(bundle, settings.out)
    print(f"{settings.out}: {bundle.card.model_id}, {len(leads)} lead(s), {len(labels)} labels, {_version(bundle)}")
    return bundle


def init(settings: Init) -> Bundle:
    """Make an untrained bundle and write it."""
    bundle = untrained(settings.preset, settings.indicators, settings.leads, settings.recipe, settings.seed)
    model.save(bundle, settings.out)
    print(f"{settings.out}: {bundle.card.model_id}, untrained (its estimates mean nothing), {_version(bundle)}")
    return bundle


def untrained(preset: str, indicators: list[str], leads: list[str], recipe_name: str, seed: int) -> Bundle:
    """A bundle of random weights. Raises InputError where an indicator, recipe or lead is unknown."""
    sizes = replace(PRESET_SIZES[preset], in_channels=len(leads))
    cards = [indicator_card(key) for key in indicators]
    return model.make(
        random_state(sizes, model.first_columns(cards)[-1], seed),
        sizes,
        named_recipe(recipe_name, tuple(leads)),
        cards,
        model_id=f"untrained-{preset}",
        source=f"random weights, seed {seed}",
        trained=False,
        licence="Apache-2.0",
    )


def random_state(sizes: Sizes, columns: int, seed: int) -> dict[str, torch.Tensor]:
    """PyTorch's default initialisation from a seed; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return dict(Net1D(sizes, columns).state_dict())


def indicator_card(key: str) -> IndicatorCard:
    """The card of one lab indicator. Raises InputError where the key is not one."""
    indicator = analytes.Indicator.parse(key)
    a = analytes.BY_KEY.get(indicator.analyte)
    if a is None or indicator.direction == "present":
        near = difflib.get_close_matches(indicator.analyte, analytes.BY_KEY, n=1)
        mend = f"did you mean {near[0]}_{indicator.direction}?" if near else "give such as potassium_high"
        raise InputError(f"setting indicators: {key} is no lab indicator; {mend}")
    return IndicatorCard(
        key=key, analyte=a.key, name=a.name, direction=indicator.direction, loinc=a.loinc, unit=a.unit
    )  # fmt: skip


def named_recipe(preset: str, leads: tuple[str, ...]) -> Recipe:
    """The recipe of a preset. Raises InputError where the preset or a lead is unknown."""
    if preset not in PRESETS:
        raise InputError(f"preprocessing {preset}: unknown; there are {', '.join(PRESETS)}")
    try:
        return recipe(preset, leads)
    except ValueError as error:
        raise InputError(f"leads: {error}") from None


def read_checkpoint(uri: str) -> dict[str, torch.Tensor]:
    """The state dict of a published checkpoint: optimiser state dropped, a `module.` prefix stripped.

    Raises InputError where the file is no checkpoint, or holds pickled code.
    """
    blob = storage.read_bytes(uri)
    try:
        # the published files carry the optimiser and the validation score, a numpy number, beside the weights
        with torch.serialization.safe_globals(_NUMPY_NUMBERS):
            content = torch.load(io.BytesIO(blob), map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        if "GLOBAL" in str(error) or "Unsupported global" in str(error) or "Unsupported class" in str(error):
            raise InputError(
                f"{uri}: refused, it holds pickled code besides tensors; save its state_dict alone"
            ) from None
        raise InputError(f"{uri}: not a PyTorch checkpoint; give the published .pth file") from None
    except Exception as error:  # torch.load raises whatever its parsers do
        raise InputError(f"{uri}: not a PyTorch checkpoint ({type(error).__name__}); give the published .pth") from None
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not state or not all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in state.items()):
        raise InputError(f"{uri}: no state_dict of tensors in it; give the published .pth file")
    return {k.removeprefix("module."): v for k, v in state.items()}


_NUMPY_NUMBERS: list[Any] = [
    np._core.multiarray.scalar,  # type: ignore[attr-defined]
    np.dtype,
    *(type(np.dtype(t)) for t in (np.float64, np.float32, np.int64)),
]


def check_fits(state: dict[str, torch.Tensor], sizes: Sizes, columns: int, where: str) -> None:
    """Raise InputError with every missing, unexpected or misshapen tensor unless `state` is exactly the network's."""
    if told := misfit({name: tuple(tensor.shape) for name, tensor in state.items()}, shapes(sizes, columns)):
        raise InputError(f"{where}: does not fit ECGFounder's network; {told}")


def _leads(state: dict[str, torch.Tensor], settings: ImportWeights) -> tuple[str, ...]:
    first = state.get("first_conv.conv.weight")
    channels = first.shape[1] if first is not None and first.ndim == 3 else None
    if channels not in (1, 12):
        raise InputError(
            f"{settings.checkpoint}: no ECGFounder, its first_conv.conv.weight reads {channels} leads, not 1 or 12"
        )
    return TWELVE_LEADS if channels == 12 else (settings.lead,)


def _labels(uri: str | None) -> list[str]:
    if uri is None:
        text = (resources.files("anyecg_ray") / "labels" / "ecgfounder_150.txt").read_text()
    else:
        text = storage.read_bytes(uri).decode(errors="replace")
    labels = [line.strip() for line in text.splitlines() if line.strip()]
    if len(set(labels)) != len(labels):
        raise InputError(f"{uri}: a label stands twice; give one label a line, each once")
    return labels


def _diagnosis(label: str) -> IndicatorCard:
    return IndicatorCard(key=label, analyte=None, name=label, direction="present")


def _version(bundle: Bundle) -> str:
    return f"version {bundle.card.model_version}, preprocessing {bundle.card.preprocess_fingerprint}"

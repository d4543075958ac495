"""A recipe is every number of the preprocessing, and its fingerprint changes with each of them."""

import dataclasses

import numpy as np
import pytest

from anyecg_ray.recipe import PRESETS, Recipe, recipe

CHANGED = {
    "leads": ("I",), "fs": 400.0, "seconds": 5.0, "stride": 5.0, "notch": (60.0, 30.0), "band": (0.5, 40.0),
    "band_order": 3, "median": 0.6, "zscore": "lead", "max_gap": 0.1, "max_missing": 0.5,
}  # fmt: skip


def test_every_setting_is_in_the_fingerprint():
    base = PRESETS["ecgfounder-finetune"]
    assert CHANGED.keys() == {f.name for f in dataclasses.fields(Recipe)}
    prints = {dataclasses.replace(base, **{name: value}).fingerprint() for name, value in CHANGED.items()}
    assert len(prints | {base.fingerprint()}) == len(CHANGED) + 1


@pytest.mark.parametrize("name", CHANGED)
def test_differences_names_the_setting(name):
    base = PRESETS["ecgfounder-finetune"]
    assert base.differences(dataclasses.replace(base, **{name: CHANGED[name]})) == [name]


def test_dict_and_back():
    for name in PRESETS:
        made = recipe(name, ("ii", "V5"))
        assert made.leads == ("II", "V5")
        assert Recipe.from_dict(made.to_dict()) == made
        assert Recipe.from_dict(made.to_dict()).fingerprint() == made.fingerprint()


def test_fingerprints_of_the_presets_stay():
    """A bundle names them: where this fails, raise recipe.VERSION knowingly and expect old bundles to be refused."""
    assert recipe("ecgfounder-finetune", ("II",)).fingerprint() == "a1155bdacbc52add"
    assert recipe("ecgfounder-zscore", ("II",)).fingerprint() == ZSCORE


ZSCORE = "50bf51bfd37cbdbc"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"leads": ("X",)}, "no lead is called 'X'"), ({"leads": "II"}, "leads"), ({"fs": 50}, "fs"),
        ({"notch": (50,)}, "notch"), ({"band": (0.67, 400)}, "band"), ({"median": 20}, "median"),
        ({"zscore": "batch"}, "zscore"), ({"max_gap": 2}, "max_gap"), ({"fs": float("nan")}, "fs"),
        ({"band_order": 2.5}, "band_order"), ({"band_order": 5}, "band_order"), ({"notch": (250, 30)}, "notch"),
        ({"notch": (1e-6, 30)}, "notch"), ({"notch": (50, 0)}, "notch"), ({"band": (40, 0.67)}, "band"),
        ({"band": (0, 40)}, "band"), ({"colour": 1}, "unknown setting"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_followed(change, told):
    with pytest.raises(ValueError, match=told):
        Recipe.from_dict(PRESETS["ecgfounder-finetune"].to_dict() | change)


@pytest.mark.parametrize(
    "change",
    [
        {"notch": (0.01, 0.1)}, {"notch": (249.9, 1000)}, {"band": (0.01, 249.9)}, {"band_order": 1},
        {"band": None, "band_order": 6}, {"fs": 80, "notch": (39, 30), "band": (0.01, 0.02)},
    ],
)  # fmt: skip
def test_what_is_accepted_can_be_designed(change):
    for made in Recipe.from_dict(PRESETS["ecgfounder-finetune"].to_dict() | change).coefficients():
        assert all(np.isfinite(part).all() for part in made)


def test_a_missing_setting():
    settings = PRESETS["ecgfounder-finetune"].to_dict()
    del settings["median"]
    with pytest.raises(ValueError, match="missing setting of the recipe: median"):
        Recipe.from_dict(settings)

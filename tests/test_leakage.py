"""What a check says passed is so, and what cannot be told is not called passed."""

import make_segments
import pytest

from anyecg_ray import initial_weights, leakage, model
from anyecg_ray.model import Card
from anyecg_ray.weights import Init, init


def card(**told):
    given = {"model_id": "m", "model_version": "1", "encoder": {}, "recipe": {}, "preprocess_fingerprint": "p"}
    more = {"indicators": [], "weights_sha256": "", "source": "", "trained": True, "licence": ""}
    return Card(**given, **more | told)


def training(fingerprint, started_from=(), init="random"):
    return {"segments_fingerprint": fingerprint, "started_from": list(started_from), "settings": {"init": init}}


def test_only_the_test_split_is_of_patients_that_the_model_never_saw():
    here = card(training=training("here"))
    assert leakage.trained_here(here, "here", "test").verdict == "passed"
    for split in ("train", "val"):
        told = leakage.trained_here(here, "here", split)
        assert (told.verdict, split in told.name) == ("warning", True)
        assert leakage.scales([], None, None, split).verdict == "warning"
    assert "thresholds were chosen" in leakage.trained_here(here, "here", "val").detail


@pytest.mark.parametrize(
    ("told", "says"),
    [
        (training("here", ["elsewhere"], "parent"), "segments elsewhere"),
        (training("here", ["elsewhere", "here"], "parent"), "segments elsewhere"),
        (training("here", [None], "1_lead_ECGFounder.pth"), "data that its card does not name"),
        ({}, "data that its card does not name"),
    ],
)
def test_what_the_weights_started_from_counts(told, says):
    check = leakage.trained_here(card(training=told), "here", "test")
    assert check.verdict == "warning"
    assert says in check.detail


def test_weights_that_started_from_the_same_segments_or_at_random_never_saw_the_test_patients():
    for told in (training("here", ["here"], "parent"), training("here")):
        assert leakage.trained_here(card(training=told), "here", "test").verdict == "passed"


def test_the_card_keeps_what_all_ancestors_learnt_from():
    parent = card(training=training("b", card(training=training("a")).learnt_from, "grandparent"))
    assert parent.learnt_from == ["a", "b"]
    assert card(trained=False).learnt_from == []
    assert card().learnt_from == [None]  # an imported checkpoint


def test_training_starts_with_what_the_given_weights_have_learnt_from(tmp_path):
    segments = make_segments.write(tmp_path / "segments")
    bundle = init(Init(out=str(tmp_path / "b"), indicators=["potassium_high"]))
    assert initial_weights.state(str(tmp_path / "b"), "tiny", segments, 0).learnt_from == []
    trained = model.Bundle(bundle.card.model_copy(update={"trained": True, "training": training("a")}), bundle.weights)
    model.save(trained, str(tmp_path / "b"))
    assert initial_weights.state(str(tmp_path / "b"), "tiny", segments, 0).learnt_from == ["a"]
    assert initial_weights.state("random", "tiny", segments, 0).learnt_from == []


def test_controls_with_too_few_patients_are_not_told_as_none():
    def row(key, low=None, high=None):
        return {"indicator": key, "slice": "all", "level": "window", "auroc_low": low, "auroc_high": high}

    few = leakage.controls([row("control_a_high"), row("potassium_high", 0.8, 0.9)])
    assert few.verdict == "warning"
    assert "1 have too few patients" in few.detail
    assert "there are none" in leakage.controls([row("potassium_high", 0.8, 0.9)]).detail
    both = leakage.controls([row("control_a_high"), row("control_b_high", 0.4, 0.6)])
    assert (both.verdict, "too few" in both.detail) == ("passed", True)
    assert leakage.controls([row("control_b_high", 0.6, 0.7)]).verdict == "warning"

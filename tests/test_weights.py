"""An import takes every tensor or tells which do not fit; nothing that is pickled code is ever run."""

import json
import pickle

import numpy as np
import pytest
import torch
from golden_rule import rule_state

from anyecg_ray import model
from anyecg_ray.cli import main
from anyecg_ray.config import InputError
from anyecg_ray.weights import ImportWeights, Init, import_weights, init


@pytest.fixture(scope="module")
def state():
    return rule_state(1)


def saved(tmp_path, content, name="1_lead_ECGFounder.pth"):
    torch.save(content, tmp_path / name)
    return str(tmp_path / name)


def imported(tmp_path, content, **settings):
    return import_weights(ImportWeights(checkpoint=saved(tmp_path, content), out=str(tmp_path / "b"), **settings))


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_published_checkpoint(tmp_path, state, golden, prefix):
    content = {"epoch": 1, "state_dict": {prefix + k: v for k, v in state.items()}, "optimizer": {"lr": np.float64(1)}}
    bundle = imported(tmp_path, content)
    again = model.load(str(tmp_path / "b"))
    assert again.card.model_dump_json() == bundle.card.model_dump_json()
    found = again.state()
    for name, tensor in state.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0)
    labels = (golden / "ecgfounder_150_labels.txt").read_text().splitlines()
    assert [i.key for i in again.card.indicators] == [label for label in labels if label]
    assert {i.analyte for i in again.card.indicators} == {None}
    assert again.card.recipe["leads"] == ["II"]
    assert again.card.model_id == "1_lead_ECGFounder"


def test_twelve_leads_are_told_by_the_shapes(tmp_path):
    assert imported(tmp_path, {"state_dict": rule_state(12)}).recipe.leads[3] == "aVR"


def test_the_lead_and_the_preset_can_be_chosen(tmp_path, state):
    bundle = imported(tmp_path, {"state_dict": state}, lead="v5", preset="ecgfounder-zscore")
    assert bundle.recipe.leads == ("V5",)
    assert bundle.recipe.band is None


def test_missing_unexpected_and_misshapen_tensors_are_all_named(tmp_path, state):
    broken = {k: v for k, v in state.items() if k != "dense.bias"}
    broken["extra.weight"] = torch.zeros(1)
    broken["dense.weight"] = torch.zeros(149, 1024)
    with pytest.raises(InputError) as error:
        imported(tmp_path, {"state_dict": broken})
    told = str(error.value)
    assert "1 missing: dense.bias" in told
    assert "1 unexpected: extra.weight" in told
    assert "dense.weight (149, 1024) for (150, 1024)" in told
    assert not (tmp_path / "b").exists()


class Evil:
    def __reduce__(self):
        return (open, ("/tmp/anyecg-was-run", "w"))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"not a checkpoint at all", "not a PyTorch checkpoint"),
        (b"", "not a PyTorch checkpoint"),
        (pickle.dumps(Evil()), "not a PyTorch checkpoint|refused, it holds pickled code"),
    ],
)
def test_files_that_are_no_checkpoint(tmp_path, content, told):
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(InputError, match=told):
        import_weights(ImportWeights(checkpoint=str(tmp_path / "x.pth"), out=str(tmp_path / "b")))


def test_pickled_code_is_refused(tmp_path, state):
    with pytest.raises(InputError, match="refused, it holds pickled code"):
        imported(tmp_path, {"state_dict": state, "hook": Evil()})


@pytest.mark.parametrize("content", [{"weights": [1, 2]}, [1, 2], {"state_dict": {}}])
def test_checkpoints_without_a_state_dict(tmp_path, content):
    with pytest.raises(InputError, match="no state_dict of tensors"):
        imported(tmp_path, content)


def test_another_network(tmp_path):
    with pytest.raises(InputError, match="no ECGFounder"):
        imported(tmp_path, {"state_dict": {"a": torch.zeros(2)}})


@pytest.mark.parametrize(("change", "told"), [({"lead": "X"}, "lead"), ({"preset": "x"}, "ecgfounder-finetune")])
def test_wrong_settings(tmp_path, state, change, told):
    with pytest.raises(InputError, match=told):
        imported(tmp_path, {"state_dict": state}, **change)


@pytest.mark.parametrize(
    ("flag", "told"),
    [
        ("--recipe=foo", "preprocessing foo: unknown; there are ecgfounder-finetune, ecgfounder-zscore"),
        ('--leads=["Z"]', "leads: no lead is called 'Z'; there are I, II"),
        ('--leads=["II", "ii"]', "leads: II, ii: name each lead once"),
    ],
)
def test_no_error_names_a_setting_that_the_verb_does_not_have(tmp_path, capsys, flag, told):
    assert main(["init", "--out", str(tmp_path / "b"), flag]) == 2
    assert capsys.readouterr().err.startswith(f"anyecg: {told}")


def test_a_missing_file_is_one_line_and_exit_2(tmp_path, capsys):
    assert main(["import-weights", "--checkpoint", str(tmp_path / "no.pth"), "--out", str(tmp_path / "b")]) == 2
    assert capsys.readouterr().err == f"anyecg: {tmp_path}/no.pth: not there\n"


def test_init_is_deterministic_and_says_that_it_means_nothing(tmp_path, capsys):
    a, b = (init(Init(out=str(tmp_path / name), seed=3)) for name in "ab")
    assert "its estimates mean nothing" in capsys.readouterr().out
    assert a.card.weights_sha256 == b.card.weights_sha256
    assert not a.card.trained
    assert init(Init(out=str(tmp_path / "c"), seed=4)).card.weights_sha256 != a.card.weights_sha256


def test_init_of_an_unknown_indicator(tmp_path):
    with pytest.raises(InputError, match="did you mean potassium_high"):
        init(Init(out=str(tmp_path / "a"), indicators=["potasium_high"]))


def test_a_bundle_with_a_changed_preprocessing_is_refused(tmp_path):
    init(Init(out=str(tmp_path / "a")))
    file = tmp_path / "a" / "card.json"
    card = json.loads(file.read_text())
    card["recipe"]["notch"] = [60.0, 30.0]
    file.write_text(json.dumps(card))
    with pytest.raises(InputError, match="differs in: notch"):
        model.load(str(tmp_path / "a"))


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        ("card.json", lambda b: b"{", "not a model card"),
        ("card.json", lambda b: b.replace(b'"model_id"', b'"modelid"'), "not a model card"),
        ("card.json", lambda b: b.replace(b'"kind": "net1d"', b'"kind": "resnet"'), "this version knows net1d"),
        ("card.json", lambda b: b.replace(b'"groups_width": 16', b'"groups_width": 17'), "are not groups of 17"),
        (
            "card.json",
            lambda b: b.replace(b'"kernel_size": 16', b'"kernel_size": 15'),
            r"do not fit .*: 5 of another shape: first_conv.conv.weight \(16, 1, 16\) for \(16, 1, 15\)",
        ),
        ("card.json", None, "not a bundle, it has no card.json"),
        ("model.safetensors", None, "not a bundle, it has no model.safetensors"),
        ("model.safetensors", lambda b: b[:-1] + b"x", "not the weights that card.json names"),
    ],
)
def test_broken_bundles(tmp_path, name, change, told):
    init(Init(out=str(tmp_path / "a")))
    file = tmp_path / "a" / name
    if change is None:
        file.unlink()
    else:
        file.write_bytes(change(file.read_bytes()))
    with pytest.raises(InputError, match=told):
        model.load(str(tmp_path / "a"))

"""An honest evaluation: figures with their patients, rivals beside them, and leaks refused or told."""

import json
from pathlib import Path
from types import SimpleNamespace

import make_segments
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from anyecg_ray import baselines, card_figures, estimate_rows, estimating, leakage, metrics, model, segments
from anyecg_ray.backfill import Backfill, claimed
from anyecg_ray.cli import main
from anyecg_ray.config import InputError
from anyecg_ray.evaluate import Evaluate, evaluate, tiers
from anyecg_ray.ledger import Ledger
from anyecg_ray.train import Train, train
from anyecg_ray.train_loop import Learning
from anyecg_ray.weights import Init, init


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("segments")
    make_segments.write(folder)
    return folder


@pytest.fixture(scope="module")
def bundle(store, tmp_path_factory, on_ray):
    out = tmp_path_factory.mktemp("bundle")
    learning = Learning(epochs=3, lr=0.004, batch=16)
    train(Train(segments=str(store), out=str(out), preset="tiny", learning=learning))
    return out


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    out = tmp_path_factory.mktemp("untrained")
    init(Init(out=str(out), indicators=["potassium_high", "potassium_value"]))
    return out


@pytest.fixture(scope="module")
def it(store, bundle, untrained, tmp_path_factory):
    out = tmp_path_factory.mktemp("report")
    return evaluate(
        Evaluate(segments=str(store), bundle=str(bundle), out=str(out), compare=str(untrained), precision="float32")
    )


@pytest.fixture(scope="module")
def table(it):
    return pd.read_parquet(Path(it.settings.out) / "metrics.parquet").set_index(["indicator", "level", "slice"])


def test_figures_are_those_of_the_test_patients_with_intervals(table, store, it):
    row = table.loc["potassium_high", "window", "all"]
    rows = list(segments.batches(str(store), "test"))
    y = np.concatenate([segments.labels(r, ["potassium_high"]) for r in rows])[:, 0] > 0
    assert row.auroc == pytest.approx(metrics.auroc(it.found.estimates["model"][:, 0], y))
    assert row.auroc > 0.85
    assert row.auroc_low < row.auroc < row.auroc_high
    assert (row.n_patients, row.n) == (60, 240)
    assert row.n_positive == y.sum()
    assert row.n_positive + row.n_negative == row.n


def test_every_figure_has_an_interval(table, it):
    row = table.loc["potassium_high", "window", "all"]
    for name in ("auroc", "auprc", "sensitivity", "specificity", "ppv", "npv", "brier"):
        assert 0 <= row[f"{name}_low"] <= row[name] <= row[f"{name}_high"] <= 1, name
    assert 0 < row.calibration_error_low < row.calibration_error_high < 1
    value = table.loc["potassium_value", "window", "all"]
    for name in ("mae", "rmse", "pearson", "r2", "bias"):
        assert value[f"{name}_low"] < value[name] < value[f"{name}_high"], name
    (told,) = [r for r in it.overall() if r["indicator"] == "potassium_high"]
    low, high = told["specificity_low"], told["specificity_high"]
    assert f"{low:.2f} to {high:.2f}</small>" in (Path(it.settings.out) / "report.html").read_text()


def test_encounters_are_means_of_windows(table, it):
    row = table.loc["potassium_high", "encounter", "all"]
    assert (row.n, row.n_patients) == (60, 60)
    p = pd.Series(it.found.estimates["model"][:, 0]).groupby(it.found.encounter).mean()
    y = pd.Series(it.found.labels[:, 0]).groupby(it.found.encounter).max()
    assert row.auroc == pytest.approx(metrics.auroc(p.to_numpy(), y.to_numpy() > 0))


def test_negative_controls_are_at_chance(table, it):
    row = table.loc["control_a_high", "encounter", "all"]
    assert row.auroc_low < 0.5 < row.auroc_high
    (check,) = [c for c in it.checks if "controls" in c.name.lower()]
    assert check.verdict == "passed"


def test_rivals_stand_beside_the_model(table):
    row = table.loc["potassium_high", "encounter", "all"]
    assert row.prevalence_auroc == pytest.approx(0.5)
    assert row.age_sex_auroc < row.auroc
    assert row.over_age_sex == pytest.approx(row.auroc - row.age_sex_auroc)
    assert row.over_age_sex_low > 0
    assert row.over_compare == pytest.approx(row.auroc - row.compare_auroc)
    assert row.over_compare_low < row.over_compare < row.over_compare_high


def test_values_have_errors_in_their_unit(table, it):
    row = table.loc["potassium_value", "window", "all"]
    assert row.unit == "mmol/L"
    assert row.mae < row.rmse < 1
    assert row.limit_low < row.bias < row.limit_high
    assert np.isnan(row.auroc)


def test_slices_add_up_and_small_ones_have_no_figure(table):
    sexes = table.xs("potassium_high").xs("window").loc[["sex=F", "sex=M"]]
    assert sexes.n.sum() == 240
    bands = [s for s in table.index.get_level_values("slice").unique() if s.startswith("age=")]
    assert len(bands) == 4
    few = table[(table.n_patients_positive < 5) & (table.direction != "value")]
    assert few.auroc.isna().all()
    assert few.note.str.contains("figures need 5").all()


def test_the_report_says_it_all(it):
    page = (Path(it.settings.out) / "report.html").read_text()
    for told in (
        "A research output",
        "Potassium high",
        "AnyECG-Lab",
        "window: noisy",
        "No patient in two splits",
        "store0",
    ):
        assert told in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
    assert "<script" not in page
    told = json.loads((Path(it.settings.out) / "report.json").read_text())
    assert told["paper_tiers"] == {"strong": 33, "moderate": 59, "limited": 16}
    assert {i["indicator"] for i in told["indicators"]} == {"potassium_high", "control_a_high", "potassium_value"}
    assert told["curves"]["potassium_high"]["roc"][0] == [0, 0]


def test_tiers():
    rows = [{"indicator": f"x{i}", "auroc": a} for i, a in enumerate([0.9, 0.65, 0.6, 0.55, 0.5, None])]
    assert tiers([*rows, {"indicator": "control_a", "auroc": 0.9}]) == {"strong": 1, "moderate": 3, "limited": 1}


def evaluated(store, bundle, out, **more):
    return evaluate(Evaluate(segments=str(store), bundle=str(bundle), out=str(out), draws=50, **more))


def test_a_patient_in_two_splits_is_refused(store, bundle, tmp_path):
    make_segments.write(tmp_path / "leaky")
    part = tmp_path / "leaky" / "split=test" / "part-0.parquet"
    rows = pq.read_table(part)
    ids = ["p3" if i < 4 else p for i, p in enumerate(rows["patient_id"].to_pylist())]
    place = rows.schema.get_field_index("patient_id")
    pq.write_table(rows.set_column(place, "patient_id", pa.array(ids)), part)
    with pytest.raises(InputError, match="1 patients of split test are also in train"):
        evaluated(tmp_path / "leaky", bundle, tmp_path / "out")


def test_labels_among_the_inputs_are_refused():
    with pytest.raises(InputError, match="label"):
        baselines.check_inputs(["age", "label:potassium_high"])


def test_a_scale_that_was_fitted_on_the_test_patients_is_told(store, bundle, tmp_path):
    leaky = model.load(str(bundle))
    y = np.concatenate([segments.labels(r, ["potassium_value"]) for r in segments.batches(str(store), "test")])
    cards = [
        i.model_copy(update={"offset": float(y.mean())}) if i.direction == "value" else i for i in leaky.card.indicators
    ]
    model.save(model.Bundle(leaky.card.model_copy(update={"indicators": cards}), leaky.weights), str(tmp_path / "b"))
    checks = evaluated(store, tmp_path / "b", tmp_path / "out").checks
    (told,) = [c for c in checks if c.verdict == "warning" and "potassium_value" in c.detail]
    assert "test split's mean" in told.detail


def test_the_compared_bundle_is_checked_too(it):
    (told,) = [c for c in it.checks if c.name.startswith("The compared bundle")]
    assert (told.verdict, "untrained" in told.detail) == ("warning", True)


def test_another_split_than_test_is_of_no_new_patients(store, bundle, tmp_path):
    checks = evaluated(store, bundle, tmp_path, split="val").checks
    assert {c.verdict for c in checks if "val" in c.name} == {"warning"}
    assert "Not new patients" in (tmp_path / "report.html").read_text()


def test_a_model_that_saw_others_or_nobody_is_told(store, untrained, bundle, tmp_path):
    checks = evaluated(store, untrained, tmp_path / "a").checks
    assert any(c.verdict == "warning" and "untrained" in c.detail for c in checks)
    make_segments.write(tmp_path / "other", fingerprint="another")
    checks = evaluated(tmp_path / "other", bundle, tmp_path / "b").checks
    assert any(c.verdict == "warning" and "patients may be the same" in c.detail for c in checks)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"bundle": "nowhere"}, "not a bundle"),
        ({"segments": "nowhere"}, "no finished segments"),
        ({"split": "exam"}, "no windows in exam"),
        ({"by": '["record_id"]'}, "record_id has 60 values"),
    ],
)
def test_wrong_settings_are_one_line(store, bundle, tmp_path, capsys, change, told):
    given = {"segments": str(store), "bundle": str(bundle), "out": str(tmp_path / "o"), "draws": "20"} | change
    assert main(["evaluate", *[f"--{k}={v}" for k, v in given.items()]]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


def card_of(bundle):
    return model.load(str(bundle)).card


NONE = (None, None, None, None)


def figures(card):
    return {i.key: (i.tier, i.auroc, i.auroc_low, i.auroc_high) for i in card.indicators}


def copied(bundle, to):
    """The card of a bundle that is now in a folder or a bucket of the test's own, too."""
    found = model.load(str(bundle))
    model.save(found, to)
    return found.card


def test_the_card_takes_the_figures_where_it_is_asked_to(store, bundle, tmp_path, capsys, s3):
    where = f"{s3}/models/b"
    before = copied(bundle, where)
    it = evaluated(store, where, tmp_path / "out", update_card=True)
    after = card_of(where)
    row = {r["indicator"]: r for r in it.overall()}["potassium_high"]
    told = figures(after)
    assert told["potassium_high"] == ("strong", row["auroc"], row["auroc_low"], row["auroc_high"])
    assert told["control_a_high"][1] is not None
    assert told["potassium_value"] == NONE
    assert after.metrics["validation_macro_auroc"] == before.metrics["validation_macro_auroc"]
    source = {k: after.metrics["test"][k] for k in ("segments_fingerprint", "split", "level", "patients")}
    assert source == {"segments_fingerprint": "store0", "split": "test", "level": "encounter", "patients": 60}
    assert f"card: {where}/card.json" in capsys.readouterr().out
    # nothing else of it is another one
    plain = dict.fromkeys(("tier", "auroc", "auroc_low", "auroc_high"))
    cleared = [i.model_copy(update=plain) for i in after.indicators]
    assert after.model_copy(update={"indicators": cleared, "metrics": before.metrics}) == before
    # and where there is no figure any more, none stays
    card_figures.update(where, after, [{"indicator": "control_a_high", "auroc": 0.5}], [], {})
    assert figures(card_of(where)) == dict.fromkeys(told, NONE) | {"control_a_high": ("limited", 0.5, None, None)}


def test_a_card_with_figures_is_of_the_same_job_and_says_them(bundle, tmp_path):
    copied(bundle, str(tmp_path / "b"))
    before = card_of(tmp_path / "b")
    rows = [{"indicator": "potassium_high", "auroc": 0.6, "auroc_low": 0.5, "auroc_high": 0.7}]
    card_figures.update(str(tmp_path / "b"), before, rows, [], {"split": "test"})
    after = card_of(tmp_path / "b")
    (told, *_) = estimating._estimates(after, np.zeros((1, after.columns)), [None])
    assert (told.tier, told.auroc, told.auroc_low, told.auroc_high) == ("moderate", 0.6, 0.5, 0.7)
    settings = Backfill(manifest="m", bundle="b", out="o")
    manifest = SimpleNamespace(dataset="mc-med", digests=("a",))
    jobs = [claimed(settings, manifest, card, None) for card in (before, after)]
    for card, job in zip((before, after), jobs, strict=True):
        Ledger(str(tmp_path / "out"), card.model_id, card.model_version).claim(job)
    assert jobs[0] == jobs[1]
    ledger, card = estimate_rows.opened_job(str(tmp_path / "out"), str(tmp_path / "b"))
    assert (ledger.job["weights_sha256"], card) == (before.weights_sha256, after)


def test_figures_that_may_flatter_stay_out_of_the_card(store, bundle, untrained, tmp_path, capsys):
    with pytest.raises(InputError, match=r"setting update-card: .* test split, not of val"):
        evaluated(store, bundle, tmp_path, split="val", update_card=True)
    checks = [leakage.trained_here(card_of(untrained), "store0", "test")]
    with pytest.raises(InputError, match=r"stays as it was.*untrained"):
        card_figures.update(str(untrained), card_of(untrained), [], checks, {})
    make_segments.write(tmp_path / "other", fingerprint="another")
    flags = {"segments": tmp_path / "other", "bundle": bundle, "out": tmp_path / "o", "draws": 20}
    assert main(["evaluate", *[f"--{k}={v}" for k, v in flags.items()], "--update-card"]) == 2
    error = capsys.readouterr().err
    assert "patients may be the same" in error
    assert error.count("\n") == 1
    assert (tmp_path / "o" / "report.html").exists()
    assert set(figures(card_of(bundle)).values()) == {NONE}
    assert not card_of(untrained).metrics


def test_a_bundle_that_was_replaced_meanwhile_keeps_its_own_card(bundle, untrained, tmp_path):
    copied(bundle, str(tmp_path / "b"))
    with pytest.raises(InputError, match="replaced while they were evaluated"):
        card_figures.update(str(tmp_path / "b"), card_of(untrained), [], [], {})


def test_a_bundle_of_another_preprocessing_is_refused(store, tmp_path):
    init(Init(out=str(tmp_path / "z"), recipe="ecgfounder-zscore"))
    with pytest.raises(InputError, match="differs in: notch, band, median"):
        evaluated(store, tmp_path / "z", tmp_path / "o")


def test_a_bundle_of_other_indicators_is_refused(store, tmp_path):
    init(Init(out=str(tmp_path / "z"), indicators=["sodium_low"]))
    with pytest.raises(InputError, match="estimates none of the segments' indicators"):
        evaluated(store, tmp_path / "z", tmp_path / "o")

"""A number that makes no sense is refused before anything is read, in one line that names the setting."""

import importlib

import pytest

from anyecg_ray.cli import VERBS, main

BACKFILL = ["backfill", "--manifest", "m", "--bundle", "b", "--out", "o"]
EVALUATE = ["evaluate", "--segments", "s", "--bundle", "b", "--out", "o"]
PREPARE = ["prepare", "--manifest", "m", "--out", "o"]
TRAIN = ["train", "--segments", "s", "--out", "o"]
BENCH = ["bench", "model"]


@pytest.mark.parametrize(
    ("verb", "name", "value"),
    [
        (BACKFILL, "shard-spans", "0"),
        (BACKFILL, "shard-spans", "-5"),
        (BACKFILL, "max-error-rate", "50"),
        (BACKFILL, "max-error-rate", "-1"),
        (BACKFILL, "max-error-rate", "nan"),
        (BACKFILL, "sink.every", "-1"),
        (BACKFILL, "sink.every", "inf"),
        (BACKFILL, "window.before", "-5"),
        (BACKFILL, "window.before", "1e300"),
        (BACKFILL, "window.after", "-5"),
        (BACKFILL, "predict.actors", "-1"),
        (BACKFILL, "predict.cpus-per-actor", "-1"),
        (BACKFILL, "predict.gpus-per-actor", "-1"),
        (BACKFILL, "predict.preprocess-cpus", "0"),
        (BACKFILL, "threads", "-1"),
        (["publish", "--out", "o", "--bundle", "b"], "sink.every", "-1"),
        (EVALUATE, "draws", "0"),
        (EVALUATE, "min-patients", "0"),
        (EVALUATE, "seed", "-1"),
        (EVALUATE, "age-bands", "-40"),
        (EVALUATE, "baselines.windows-per-encounter", "0"),
        (EVALUATE, "baselines.max-windows", "0"),
        (EVALUATE, "baselines.min-patients", "0"),
        (PREPARE, "per-span", "-1"),
        (PREPARE, "min-count", "-1"),
        (PREPARE, "min-likelihood", "101"),
        (PREPARE, "align.before", "-5"),
        (PREPARE, "align.after", "-5"),
        (PREPARE, "align.offset", "nan"),
        (TRAIN, "workers", "0"),
        (TRAIN, "cpus-per-worker", "-1"),
        (TRAIN, "max-failures", "-1"),
        (TRAIN, "seed", "-1"),
        (TRAIN, "learning.epochs", "0"),
        (TRAIN, "learning.patience", "-1"),
        (TRAIN, "learning.batch", "0"),
        (TRAIN, "learning.accumulate", "0"),
        (TRAIN, "learning.lr", "0"),
        (TRAIN, "learning.weight-decay", "-1"),
        (TRAIN, "learning.warmup", "5"),
        (TRAIN, "learning.layer-decay", "0"),
        (TRAIN, "learning.clip", "0"),
        (TRAIN, "learning.positive-weight", "0"),
        (TRAIN, "learning.prevalence", "1"),
        (TRAIN, "augment.shift", "-1"),
        (TRAIN, "augment.scale", "2"),
        (TRAIN, "augment.noise", "-1"),
        (TRAIN, "augment.lead", "1.5"),
        (BENCH, "windows", "0"),
        (BENCH, "published-batches", "0"),
        (BENCH, "train-encounters", "0"),
        (BENCH, "shards", "0"),
        (BENCH, "connections", "0"),
        (BENCH, "load-seconds", "0"),
        (BENCH, "ecg-seconds", "9"),
        (BENCH, "soak-minutes", "-1"),
        (["init", "--out", "o"], "seed", "-1"),
        (["demo"], "encounters", "0"),
        (["demo"], "epochs", "0"),
        (["demo"], "minutes", "0"),
        (["demo"], "seed", "-1"),
        (["synth", "--out", "o"], "encounters", "-1"),
        (["synth", "--out", "o"], "minutes", "500"),
        (["synth", "--out", "o"], "seed", "-1"),
        (["synth", "--out", "o"], "workers", "0"),
        (["manifest", "--archive", "a", "--out", "o"], "max-span", "inf"),
        (["serve", "--bundle", "b"], "ingress-cpus", "inf"),
        (["serve", "--bundle", "b"], "limits.rate", "-1"),
        (["pack", "--manifest", "m", "--out", "o"], "megabytes", "0"),
    ],
)
def test_a_number_out_of_bounds_is_one_line(verb, name, value, capsys):
    assert main([*verb, f"--{name}={value}"]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"anyecg: setting {name}")
    assert told.count("\n") == 1


def _numbers(schema, sections, at=""):
    """(key, JSON schema) of every number among the settings, those of sections and lists too."""
    schema = sections.get(schema.get("$ref", "").rpartition("/")[2], schema)
    if schema.get("type") in ("integer", "number") and not {"const", "enum"} & {*schema}:
        yield at, schema
    within = [(at, s) for s in [*schema.get("anyOf", []), *filter(None, [schema.get("items")])]]
    for key, field in [*within, *((f"{at}.{name}", s) for name, s in schema.get("properties", {}).items())]:
        yield from _numbers(field, sections, key)


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "submit"])
def test_every_number_has_a_least_value(verb):
    model = getattr(importlib.import_module(f"anyecg_ray.{VERBS[verb].module}"), VERBS[verb].settings)
    schema = model.model_json_schema()
    numbers = _numbers(schema, schema.get("$defs", {}))
    free = {at for at, number in numbers if not {"minimum", "exclusiveMinimum"} & {*number}}
    assert free <= {".align.offset"}  # minutes, either way

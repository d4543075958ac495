"""A small back-fill to export from, and how the tests of the exports run and read it."""

import json
from collections import Counter

import pyarrow as pa
from test_estimate_rows import SPANS, staging

from anyecg_ray import schema
from anyecg_ray.cli import main
from anyecg_ray.ledger import Ledger
from anyecg_ray.model import IndicatorCard, save
from anyecg_ray.weights import untrained

HIGH = IndicatorCard(
    key="potassium_high", analyte="potassium", name="Potassium", direction="high", loinc="2823-3", unit="mmol/L",
    threshold=0.6,
)  # fmt: skip
VALUE = IndicatorCard(
    key="potassium_value", analyte="potassium", name="Potassium", direction="value", loinc="2823-3", unit="mmol/L",
    offset=4, scale=0.5,
)  # fmt: skip


def made(where, patients=("17", "P-2", None), version="1", granularity="span", spans=SPANS, shards=1):
    """A back-fill of three spans a shard: one with an estimate, one flat, one without its file."""
    bundle = untrained("tiny", ["potassium_high", "potassium_value"], ["II"], "ecgfounder-finetune", 0)
    card = bundle.card.model_copy(update={"indicators": [HIGH, VALUE], "model_version": version})
    save(type(bundle)(card, bundle.weights), str(where / f"b{version}"))
    ledger = Ledger(str(where / "out"), card.model_id, version)
    ledger.claim({"granularity": granularity, "row_groups": [], "weights_sha256": card.weights_sha256})
    for shard in range(shards):
        rows = staging(spans)
        told = {
            "span_id": [f"{shard}-{i}#0" for i in range(len(spans))],
            "patient_id": pa.array(patients, pa.string()),
            "model_id": [card.model_id] * len(spans),
            "model_version": [version] * len(spans),
        }
        for name, values in told.items():
            rows = rows.set_column(rows.column_names.index(name), schema.STAGING.field(name), pa.array(values))
        ledger.stage(f"000000-00000{shard}", rows)
    return where


def flags(folder, to, *more, version="1"):
    told = ["--out", folder / "out", "--bundle", folder / f"b{version}", "--dest", folder / to, "--to", to]
    return ["export", *map(str, told), *map(str, more)]


def run(folder, to, *more, version="1"):
    assert main(flags(folder, to, *more, version=version)) == 0
    return folder / to


def name(folder, version="1"):
    """What names of files of this back-fill's exports begin with."""
    (job,) = (folder / "out" / "staging").glob(f"*/{version}/_job.json")
    return f"{version}-{json.loads(job.read_text())['id']}"


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def counted(printed):
    """What an export printed, as a Counter."""
    told = (line.strip().partition(" ") for line in printed.splitlines() if line.startswith("  "))
    return Counter({what: int(n.replace(",", "")) for n, _, what in told})

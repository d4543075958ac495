"""From an archive and its laboratory results to a segment store: windows with labels, ready for training.

The driver reads the tables (prepare_inputs.py) and hands the results to the workers in shared memory; a worker takes
one shard of the manifest through the very functions of back-fill and writes one file for each split (labelling.py).
Every window and span that is not in the store is counted by its reason. Run again after a crash, it goes on
(unfinished.py).
"""

import io
import json
from collections import Counter
from collections.abc import Iterator
from typing import cast

import pyarrow as pa
import pyarrow.parquet as pq
import ray

from anyecg_ray import cluster, segments, storage, unfinished
from anyecg_ray.analytes import BY_KEY, Indicator
from anyecg_ray.config import InputError, fingerprint
from anyecg_ray.labelling import TOLD, Job, Known, label_shards
from anyecg_ray.manifest import open_manifest
from anyecg_ray.model import IndicatorCard
from anyecg_ray.predict import Shard
from anyecg_ray.prepare_inputs import Inputs, Prepare
from anyecg_ray.progress import Progress
from anyecg_ray.segments import SegmentsCard
from anyecg_ray.splits import PARTS

RULES = 3
"""Version of the labelling rules and columns; raise it when they change, so that an older store is not reused."""


def prepare(settings: Prepare) -> SegmentsCard:
    """Write the store and return its card; a store that stands already is left as it is.

    Raises InputError where an input cannot be used or another store is there.
    """
    manifest = open_manifest(settings.manifest)
    made = fingerprint([settings.model_dump(exclude={"out", "tables"}), list(manifest.digests), RULES])
    if (before := _before(settings.out)) is not None:
        if before.fingerprint != made:
            raise InputError(f"{settings.out}: holds segments that were made otherwise; give another --out")
        print(f"{settings.out}: nothing to do, the segments stand")
        return before
    plan = Inputs(settings, manifest)
    try:
        with cluster.connected():
            counted = _run(plan, settings)
    except ray.exceptions.RayError as error:
        raise cluster.explained(error) from None
    card = _card(plan, settings, counted, made)
    _write_drops(settings.out, card.drops)
    storage.write_atomic(storage.join(settings.out, segments.CARD), (card.model_dump_json(indent=2) + "\n").encode())
    unfinished.forget(settings.out)
    _report(card, settings.out)
    return card


def _before(out: str) -> SegmentsCard | None:
    return segments.read_card(out) if storage.exists(storage.join(out, segments.CARD)) else None


def _run(plan: Inputs, settings: Prepare) -> pa.Table:
    """Write all parts; returns the workers' counts: shard, what, key, n."""
    known = Known(plan.draws, plan.parts, plan.people)
    what = (plan.source, tuple(plan.indicators), plan.clock, settings.align, settings.per_span, plan.described)
    job = Job(*what, settings.out, unfinished.work(*what, known, plan.shards))
    done = unfinished.done(job.out, job.work)
    unfinished.forget_others(job.out, job.work)
    unfinished.clear(job.out, set(done))
    todo = [shard for shard in plan.shards if shard.name not in done]
    if done:
        print(f"{job.out}: {len(done)} of {len(plan.shards)} shards stand from a run that was cut off")
    return pa.concat_tables([TOLD.empty_table(), *done.values(), *_labelled(todo, job, known)])


def _labelled(shards: list[Shard], job: Job, known: Known) -> Iterator[pa.Table]:
    """Write the shards' windows; what each counted, as they come."""
    if not shards:
        return
    made = ray.data.range(len(shards), override_num_blocks=len(shards)).map_batches(
        label_shards,  # type: ignore[arg-type]
        fn_args=(shards, job, [ray.put(known)]),
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=1,
    )
    progress, reached = Progress(sum(s.length for s in shards), "spans"), 0
    for block in made.iter_batches(batch_size=None, batch_format="pyarrow"):
        counted = cast(pa.Table, block)
        reached += sum(shards[i].length for i in set(counted.column("shard").to_pylist()))
        progress.reach(reached)
        yield counted
    progress.close()


def _card(plan: Inputs, settings: Prepare, counted: pa.Table, made: str) -> SegmentsCard:
    totals = counted.group_by(["what", "key"]).aggregate([("n", "sum")])
    n: dict[tuple[str, str], int] = {
        (what, key): total
        for what, key, total in zip(*(totals[c].to_pylist() for c in ("what", "key", "n_sum")), strict=True)
    }
    counts = {
        part: {
            i.key: {side: n.get(("label", f"{part} {side} {i.key}"), 0) for side in ("positive", "negative")}
            for i in plan.indicators
        }
        for part in PARTS
    }
    kept = _kept(plan, settings, counts)
    drops = {key: total for (what, key), total in sorted(n.items()) if what == "drop" and total}
    drops |= {f"indicator: too few windows once aligned ({i.key})": 1 for i in plan.indicators if i not in kept}
    drops |= {f"result: {reason} ({about})": total for (reason, about), total in sorted(plan.counts.items())}
    return SegmentsCard(
        dataset=plan.dataset,
        recipe=plan.recipe.to_dict(),
        preprocess_fingerprint=plan.recipe.fingerprint(),
        indicators=[_indicator_card(i) for i in kept],
        counts={part: {i.key: counts[part][i.key] for i in kept} for part in PARTS},
        windows={part: n.get(("windows", part), 0) for part in PARTS},
        patients={part: sum(w == "patient" and k.startswith(f"{part} ") for w, k in n) for part in PARTS},
        drops=drops,
        settings={**settings.model_dump(), "split": plan.split, "clock": plan.clock},
        fingerprint=made,
    )


def _kept(plan: Inputs, settings: Prepare, counts: dict[str, dict[str, dict[str, int]]]) -> list[Indicator]:
    """The indicators that still have enough windows after time limits and quality; all that were asked for.

    Raises InputError where none is left.
    """
    if settings.indicators:
        return plan.indicators
    kept = []
    for i in plan.indicators:
        sides = ("positive",) if i.direction == "value" else ("positive", "negative")
        if all(counts[part][i.key][side] >= settings.min_count for part in PARTS for side in sides):
            kept.append(i)
    if not kept:
        raise InputError(
            f"{settings.manifest}: no indicator has {settings.min_count} windows of either kind in each split once "
            "results and windows are matched; give wider --align.before and --align.after, or a smaller --min-count"
        )
    return kept


def _indicator_card(indicator: Indicator) -> IndicatorCard:
    known = BY_KEY.get(indicator.analyte)
    return IndicatorCard(
        key=indicator.key,
        analyte=None if indicator.direction == "present" else indicator.analyte,
        name=known.name if known else indicator.analyte.replace("_", " "),
        direction=indicator.direction,
        loinc=known.loinc if known else None,
        unit=known.unit if known else None,
    )


def _write_drops(out: str, drops: dict[str, int]) -> None:
    table = pa.table({"reason": pa.array(list(drops), pa.string()), "n": pa.array(list(drops.values()), pa.int64())})
    sink = io.BytesIO()
    pq.write_table(table, sink)
    storage.write_atomic(storage.join(out, segments.DROPS), sink.getvalue())


def _report(card: SegmentsCard, out: str) -> None:
    print(f"{out}: {len(card.indicators)} indicators, split {card.settings['split']}, clock {card.settings['clock']}")
    for part in PARTS:
        print(f"  {part:6} {card.windows[part]:>10,} windows of {card.patients[part]:,} patients")
    left = Counter({k: n for k, n in card.drops.items() if not k.startswith("result:")})
    print("left out: " + (", ".join(f"{n:,} {k}" for k, n in left.most_common()) or "nothing"))
    results = {k: n for k, n in card.drops.items() if k.startswith("result:")}
    if results:
        print(f"{sum(results.values()):,} results with a fault, by {len(results)} reasons: see {segments.DROPS}")
    print(json.dumps({"fingerprint": card.fingerprint}))

"""Measure what packs are worth: the same spans fetched from an archive and from packs of it, in turns."""

from collections.abc import Callable
from typing import Any

from anyecg_ray import storage
from anyecg_ray.manifest import read_rows
from anyecg_ray.pack import MANIFEST, Pack, pack
from anyecg_ray.predict import Source, fetch

SPANS = 256
"""Spans that are fetched together, as back-fill does with spans of ten seconds."""


def measured(source: Source, out: str, rate: Callable[[Callable[[], int]], float]) -> dict[str, Any]:
    """Pack the source's archive into `out` and fetch from both.

    rate: calls what does some things and says how many, again and again; returns things per second.
    """
    pack(Pack(manifest=source.manifest, archive=source.archive, out=out))
    packed = Source(storage.join(out, MANIFEST), out, source.recipe)

    def fetching(of: Source) -> float:
        rows = read_rows(of.manifest, 0, 0, SPANS)
        return rate(lambda: len(fetch(rows, of)))

    before, packs, after = fetching(source), fetching(packed), fetching(source)
    plain = (before + after) / 2
    return {
        "fetch_spans_per_s": plain,
        "fetch_before_after": [before, after],
        "fetch_packed_spans_per_s": packs,
        "packed_over_plain": packs / plain,
    }

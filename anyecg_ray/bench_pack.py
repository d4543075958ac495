"""Measure fetching: the same spans from an archive, from packs of it, and by the loop that one would write at first."""

from collections.abc import Callable
from typing import Any

from anyecg_ray import leads, storage, zips
from anyecg_ray.manifest import read_rows
from anyecg_ray.pack import MANIFEST, Pack, pack
from anyecg_ray.predict import Source, fetch
from anyecg_ray.record import reads
from anyecg_ray.schema import Status
from anyecg_ray.spans import beside

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
    plain, bare = (before + after) / 2, {}
    if _loop(source):
        loop = rate(lambda: _loop(source))
        bare = {"bare_loop_spans_per_s": loop, "fetch_over_bare_loop": plain / loop}
    return {
        **bare,
        "fetch_spans_per_s": plain,
        "fetch_before_after": [before, after],
        "fetch_packed_spans_per_s": packs,
        "packed_over_plain": packs / plain,
    }


def _loop(source: Source) -> int:
    """The same bytes of some of these spans, a request of s3fs after the other; returns how many spans."""
    fs, top = storage.filesystem(source.archive)
    rows = read_rows(source.manifest, 0, 0, SPANS // 8).to_pylist()
    spans = [row for row in rows if row["status"] == Status.OK and zips.MARK not in row["record_id"]]
    for row in spans:
        stop = row["start_sample"] + row["n_samples"]
        signals = leads.sufficient(tuple(row["leads"]), source.recipe.leads)
        for name, (start, size) in reads(row["header"], row["start_sample"], stop, signals).items():
            end = None if size is None else start + size
            fs.cat_file(storage.join(top, beside(row["record_id"], name)), start=start, end=end)
    return len(spans)

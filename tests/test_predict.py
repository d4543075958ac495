"""The pipeline's pieces: what is cut where, what travels, and that a defect of ours costs one row."""

import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import ray
from bad_records import beats, copy_good, write, write_broken

from anyecg_ray import predict
from anyecg_ray.backends import Compute
from anyecg_ray.config import InputError
from anyecg_ray.manifest import Manifest, manifest, open_manifest, read_rows
from anyecg_ray.model import save
from anyecg_ray.predict import Predict, Predictor, Shard, Source, fetch, nested, windows_of
from anyecg_ray.preprocess import preprocess, recipe
from anyecg_ray.record import decode
from anyecg_ray.weights import untrained

RECIPE = recipe("ecgfounder-finetune", ("II",))


@pytest.fixture
def source(data, tmp_path):
    copy_good(data, tmp_path / "a", 2)
    write(tmp_path / "a", "long", beats(seconds=3700))
    write_broken(tmp_path / "a" / "broken")
    manifest(Manifest(archive=str(tmp_path / "a"), out=str(tmp_path / "m.parquet"), workers=0))
    return Source(str(tmp_path / "m.parquet"), str(tmp_path / "a"), RECIPE)


def shard(source):
    return Shard(0, 0, open_manifest(source.manifest).rows)


def test_pieces_hold_every_span_once_and_few_windows(source):
    pieces = list(windows_of(source, shard(source), 7))
    rows = pa.concat_tables(pieces)
    expected = read_rows(source.manifest, 0, 0, len(rows)).column("span_id").to_pylist()
    assert rows.column("span_id").to_pylist() == expected
    assert set(rows.column("shard").to_pylist()) == {7}
    assert len(pieces) > 1
    for piece in pieces:
        windows = sum(len(x) // (5000 * 4) for x in piece.column("x").to_pylist())
        assert windows <= predict.PIECE_WINDOWS or len(piece) == 1


def test_a_manifest_that_was_made_anew_is_not_read(source, tmp_path):
    """A driver has cut it into shards; its workers open it minutes or hours later."""
    known = replace(source, digests=open_manifest(source.manifest).digests)
    whole = shard(known)
    assert sum(map(len, windows_of(known, whole, 0))) == whole.rows
    shutil.rmtree(tmp_path / "a" / "broken")
    manifest(Manifest(archive=str(tmp_path / "a"), out=source.manifest, workers=0))
    with pytest.raises(InputError, match="made anew while it was being scored; run the same line again"):
        next(windows_of(known, whole, 0))


def test_a_bundle_that_was_replaced_is_not_scored_with(tmp_path):
    first, other = (untrained("tiny", ["potassium_high"], ["II"], "ecgfounder-finetune", seed) for seed in (0, 1))
    save(other, str(tmp_path))
    Predictor(str(tmp_path), Compute(backend="torch", precision="float32"), other.card.weights_sha256)
    with pytest.raises(InputError, match="weights were replaced"):
        Predictor(str(tmp_path), Compute(backend="torch", precision="float32"), first.card.weights_sha256)


def test_the_windows_of_a_piece_are_those_of_its_spans(source):
    rows = read_rows(source.manifest, 0, 0, open_manifest(source.manifest).rows)
    by_span = {}
    for piece in windows_of(source, shard(source), 0):
        by_span |= dict(zip(piece.column("span_id").to_pylist(), piece.column("x").to_pylist(), strict=True))
    for row, found in zip(rows.to_pylist(), fetch(rows, source), strict=True):
        if found.status == "ok" and not row["span_id"].startswith("broken/"):
            alone = preprocess(decode(found.header, found.blobs, found.start, found.stop), RECIPE)
            assert by_span[row["span_id"]] == alone.x.tobytes()


def test_a_defect_of_ours_costs_one_row(source, monkeypatch):
    right, seen = predict.preprocess, []

    def broken(record, recipe):
        seen.append(record)
        if len(seen) == 3:
            raise ZeroDivisionError("oh dear")
        return right(record, recipe)

    monkeypatch.setattr(predict, "preprocess", broken)
    rows = pa.concat_tables(windows_of(source, shard(source), 0)).to_pylist()
    told = [r["status_detail"] for r in rows if r["status_detail"] and "oh dear" in r["status_detail"]]
    assert told == ["ZeroDivisionError: oh dear"]


def test_the_predictor_gives_each_span_the_outputs_of_its_own_windows(source, tmp_path):
    bundle = untrained("tiny", ["potassium_high", "calcium_low"], ["II"], "ecgfounder-finetune", 0)
    save(bundle, str(tmp_path / "b"))
    predictor = Predictor(str(tmp_path / "b"), Compute(backend="torch", precision="float32"))
    for piece in windows_of(source, shard(source), 0):
        out = predictor(piece).to_pylist()
        for before, row in zip(piece.to_pylist(), out, strict=True):
            x = np.frombuffer(before["x"], np.float32).reshape(-1, 1, 5000)
            expected = predictor._estimator.logits(x)
            got = [v for v in row["values"] if v is not None]
            np.testing.assert_allclose(np.reshape(got, (-1, 2)), expected, atol=1e-5)
            assert len(row["values"]) == len(row["window_start"]) == len(row["quality"])
            assert [v is not None for v in row["values"]] == before["usable"]


def test_nested():
    usable = pa.array([[True, False], [], [True, True]])
    out = nested(np.arange(6, dtype=np.float32).reshape(3, 2), usable).to_pylist()
    assert out == [[[0, 1], None], [], [[2, 3], [4, 5]]]


@pytest.mark.parametrize(("nodes", "copies"), [([1], 1), ([2], 1), ([2, 2], 2), ([4, 4, 4], 3), ([16], 4), ([0, 8], 2)])
def test_reading_has_room_beside_copies_that_come_over_from_a_lost_node(nodes, copies, monkeypatch):
    """Where copies fill what is left of a cluster, nothing is read, and the job waits for ever."""
    alive = [{"Alive": True, "Resources": {"CPU": float(n)}} for n in nodes]
    monkeypatch.setattr(ray, "nodes", lambda: alive)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": float(sum(nodes))})
    layout = Predict().for_cluster(Compute())
    assert layout.actors == copies
    assert copies * layout.cpus + layout.reading <= max(nodes)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": float(sum(nodes)), "GPU": 1.0})
    assert Predict().for_cluster(Compute()).reading == 1


def test_a_cluster_whose_machines_are_yet_to_come(monkeypatch):
    """cluster.yaml begins with a head that runs no work: it says nothing about the machines that will."""
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 0.0}}])
    monkeypatch.setattr(ray, "cluster_resources", lambda: {})
    layout = Predict(actors=4, preprocess_cpus=2).for_cluster(Compute())
    assert (layout.actors, layout.compute.threads, layout.cpus, layout.reading) == (4, predict.THREADS, 1.0, 2)

"""The store gives back what was put in: windows to a 65,534th of their peak, labels with their gaps."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from anyecg_ray import segments, storage
from anyecg_ray.config import InputError
from anyecg_ray.preprocess import recipe
from anyecg_ray.segments import SegmentsCard

KEYS = ["potassium_high", "calcium_low"]
RECIPE = recipe("ecgfounder-finetune", ("II", "V1"))


def windows(n: int, seed: int = 0) -> np.ndarray:
    drawn: np.ndarray = np.random.default_rng(seed).standard_normal((n, 2, 5000)).astype(np.float32)
    return drawn


def table(x: np.ndarray) -> pa.Table:
    n = len(x)
    scale, samples = segments.quantised(x)
    columns = {name: [f"{name}-{i}" for i in range(n)] for name in segments.IDENTITY.names[:5]}
    columns |= {"time": [10**16 + i for i in range(n)], "age": [None] * n, "sex": ["F"] * n}
    columns |= {"scale": pa.array(scale), "samples": samples}
    columns |= {segments.label(k): [None if i % 3 == 0 else float(i % 2) for i in range(n)] for k in KEYS}
    schema = segments.schema_of(KEYS, 2 * 5000)
    return pa.table([pa.array(columns[f.name], f.type) for f in schema], schema=schema)


def stored(folder: Path, split: str, x: np.ndarray, name: str = "part-0.parquet") -> str:
    (folder / f"split={split}").mkdir(parents=True, exist_ok=True)
    pq.write_table(table(x), folder / f"split={split}" / name, row_group_size=7)
    return str(folder)


def card(**more: object) -> SegmentsCard:
    told = {"dataset": "mc-med", "recipe": RECIPE.to_dict(), "preprocess_fingerprint": RECIPE.fingerprint()}
    empty = {"indicators": [], "counts": {}, "windows": {}, "patients": {}, "drops": {}, "settings": {}}
    return SegmentsCard.model_validate(told | empty | {"fingerprint": "f"} | more)


def test_windows_come_back_to_a_65534th_of_their_peak(tmp_path: Path) -> None:
    x = windows(20) * np.logspace(-3, 3, 20, dtype=np.float32)[:, None, None]
    uri = stored(tmp_path, "train", x)
    back = np.concatenate([segments.windows(b, 2) for b in segments.batches(uri, "train", 8)])
    assert back.shape == x.shape
    assert back.dtype == np.float32
    peak = np.abs(x).max(axis=(1, 2), keepdims=True)
    assert (np.abs(back - x) <= peak / 65534 * 1.01).all()


def test_a_window_of_zeros_is_zeros() -> None:
    scale, samples = segments.quantised(np.zeros((1, 2, 5000), np.float32))
    batch = pa.table({"scale": pa.array(scale), "samples": samples})
    assert not segments.windows(batch, 2).any()


def test_part_of_a_batch_has_its_own_windows(tmp_path: Path) -> None:
    x = windows(12)
    rows = table(x)
    cut = pa.concat_tables([rows.slice(7, 2), rows.slice(3, 2)])  # in two chunks, with offsets
    np.testing.assert_allclose(segments.windows(cut, 2), x[[7, 8, 3, 4]], atol=1e-3)
    assert segments.windows(rows.slice(0, 0), 2).shape[0] == 0


def test_what_was_not_measured_comes_back_as_nan() -> None:
    y = segments.labels(table(windows(6)), KEYS)
    np.testing.assert_array_equal(y[:, 0], np.array([np.nan, 1, 0, np.nan, 0, 1], np.float32))
    assert y.dtype == np.float32


def test_columns_can_be_chosen_and_parts_follow_in_order(tmp_path: Path) -> None:
    stored(tmp_path, "val", windows(5, 1), "part-1.parquet")
    uri = stored(tmp_path, "val", windows(3, 2), "part-0.parquet")
    (tmp_path / "split=val" / "part-2.parquet.tmp").write_bytes(b"half a file of a crash")
    found = list(segments.batches(uri, "val", 100, ["segment_id"]))
    assert [b.schema.names for b in found] == [["segment_id"]] * 2
    assert [len(b) for b in found] == [3, 5]


def test_the_card_comes_back_with_its_preprocessing(tmp_path: Path) -> None:
    storage.write_atomic(str(tmp_path / "card.json"), card().model_dump_json().encode())
    back = segments.read_card(str(tmp_path))
    assert back == card()
    assert back.preprocessing() == RECIPE


def test_a_store_without_a_card_is_refused(tmp_path: Path) -> None:
    uri = stored(tmp_path, "train", windows(3))
    with pytest.raises(InputError, match="no finished segments"):
        segments.read_card(uri)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1}', "no JSON"])
def test_a_card_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "card.json").write_text(text)
    with pytest.raises(InputError, match=r"card\.json: not a card of segments"):
        segments.read_card(str(tmp_path))


def test_an_unknown_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="split: all; there are train, val, test"):
        segments.parts(str(tmp_path), "all")


def test_a_store_in_a_bucket_reads_like_a_folder(s3: str) -> None:
    uri = f"{s3}/segments"
    assert segments.parts(uri, "test") == []
    x = windows(9)
    with storage.atomic_output(f"{uri}/split=test/part-0.parquet") as file:
        pq.write_table(table(x), file, row_group_size=4)
    storage.write_atomic(f"{uri}/card.json", card().model_dump_json().encode())
    assert segments.read_card(uri) == card()
    back = np.concatenate([segments.windows(b, 2) for b in segments.batches(uri, "test", 4)])
    np.testing.assert_allclose(back, x, atol=1e-3)


@pytest.mark.slow
def test_the_same_seed_brings_the_same_windows_in_the_same_order_each_pass_another(
    tmp_path: Path, on_ray: None
) -> None:
    import ray.data

    for part in range(40):  # more than there are tasks, so that each shuffles parts of its own
        uri = stored(tmp_path, "train", windows(1), f"part-{part:02d}.parquet")
        rows = pq.read_table(f"{uri}/split=train/part-{part:02d}.parquet")
        mine = rows.set_column(rows.schema.get_field_index("segment_id"), "segment_id", pa.array([f"{part}"]))
        pq.write_table(mine, f"{uri}/split=train/part-{part:02d}.parquet")

    def passes(seed: int, workers: int = 1) -> list[list[list[str]]]:
        found = segments.dataset(uri, "train", ["segment_id"], shuffle=seed)
        found.context.execution_options = ray.data.ExecutionOptions(preserve_order=True)
        shards = found.streaming_split(workers, equal=True)
        with ThreadPoolExecutor(workers) as pool:  # a pass begins where all workers have come to
            return [list(pool.map(_ids, shards)) for _ in range(2)]

    first = passes(7)
    assert passes(7) == first
    assert sorted(first[0][0]) == sorted(first[1][0]) == sorted(str(part) for part in range(40))
    assert first[0] != first[1]
    assert passes(8)[0] != first[0]
    assert passes(7, workers=2) == passes(7, workers=2)


def _ids(shard: Any) -> list[str]:
    return [i for rows in shard.iter_batches(batch_format="pyarrow") for i in rows["segment_id"].to_pylist()]

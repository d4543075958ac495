"""Figures by what a data set tells of its encounters (race, ethnicity, acuity, disposition), each patient's apart."""

from pathlib import Path

import make_segments
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from anyecg_ray import segments
from anyecg_ray.config import InputError
from anyecg_ray.evaluate import Evaluate, Evaluation, evaluate
from anyecg_ray.weights import Init, init


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundle")
    init(Init(out=str(out), indicators=["potassium_high"]))
    return out


def rewritten(folder: Path, **columns: object) -> Path:
    """A store with columns made of patients' numbers, beside or instead of its own."""
    make_segments.write(folder)
    for part in folder.glob("split=*/part-*.parquet"):
        rows = pq.read_table(part)
        numbers = [int(p[1:]) for p in rows["patient_id"].to_pylist()]
        for name, made in columns.items():
            values = pa.array([made(n) for n in numbers], pa.string())  # type: ignore[operator]
            rows = rows.drop_columns([name]) if name in rows.column_names else rows
            rows = rows.append_column(name, values)
        pq.write_table(rows, part)
    return folder


def evaluated(store: Path, bundle: Path, out: Path, **more: object) -> Evaluation:
    told = {"segments": str(store), "bundle": str(bundle), "out": str(out), "draws": 20}
    return evaluate(Evaluate.model_validate(told | more))


def test_slices_by_race_have_figures_and_the_unknown_are_counted(bundle: Path, tmp_path: Path) -> None:
    store = rewritten(tmp_path / "store", race=lambda n: ("Asian", "Black", None)[n % 3])
    evaluated(store, bundle, tmp_path / "out", by=["race"])
    table = pd.read_parquet(tmp_path / "out" / "metrics.parquet").set_index(["level", "slice"])
    of = table.loc["window"].n_patients
    assert of["race=Asian"] + of["race=Black"] + of["race=unknown"] == of["all"] == 60
    assert table.loc["window", "race=Asian"].auroc > 0
    assert "race=Black" in (tmp_path / "out" / "report.html").read_text()


def test_a_column_that_the_segments_lack_is_named_with_those_there_are(bundle: Path, tmp_path: Path) -> None:
    make_segments.write(tmp_path / "before")  # as stores were made before they told of encounters
    with pytest.raises(InputError, match=r"setting by: .*before has no column race; there are none beside age and sex"):
        evaluated(tmp_path / "before", bundle, tmp_path / "out", by=["race"])
    store = rewritten(tmp_path / "store", race=str, acuity=str)
    with pytest.raises(InputError, match="no column colour; there are race, acuity"):
        evaluated(store, bundle, tmp_path / "out", by=["race", "colour"])
    assert not (tmp_path / "out").exists()


def test_encounters_numbered_anew_for_each_patient_are_judged_apart(bundle: Path, tmp_path: Path) -> None:
    store = rewritten(tmp_path / "store", encounter_id=lambda n: str(n % 3))
    found = evaluated(store, bundle, tmp_path / "out").found
    assert len(np.unique(found.encounter)) == 60
    assert set(found.ids["encounter_id"]) == {"0", "1", "2"}


def test_an_encounter_of_nobody_known_in_two_splits_is_refused(bundle: Path, tmp_path: Path) -> None:
    store = rewritten(tmp_path / "store", encounter_id=lambda n: str(n % 3), patient_id=lambda n: None)
    with pytest.raises(InputError, match="3 encounters of split val are also in train"):
        evaluated(store, bundle, tmp_path / "out")


def test_columns_are_those_by_which_windows_may_be_grouped(tmp_path: Path) -> None:
    store = rewritten(tmp_path / "store", race=str)
    assert segments.columns(str(store), "test") == [*segments.IDENTITY.names, "race"]
    assert segments.columns(str(store), "val") == segments.columns(str(store), "test")
    with pytest.raises(InputError, match="there are train, val, test"):
        segments.columns(str(store), "exam")

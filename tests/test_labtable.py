"""Columns of a source into LABELS: row for row, units made one, and every oddity counted."""

import pyarrow as pa
import pytest

from anyecg_ray.labtable import Counts, label_batch, malformed
from anyecg_ray.labvalue import parse_column
from anyecg_ray.schema import LABELS


def build(values, counts=None, dataset="mc-med", **columns):
    rows = {name: pa.array(column) for name, column in columns.items()}
    batch = label_batch(
        rows, parse_column(pa.array(values, pa.string())), dataset, Counts() if counts is None else counts
    )
    assert batch.schema == LABELS
    batch.validate(full=True)
    return batch.to_pydict()


def test_one_component_in_two_units_comes_out_in_one():
    batch = build(
        ["9.2", "2.3", "4.6"],
        component=["CALCIUM"] * 3,
        unit=["mg/dL", "mmol/L", "mEq/L"],
        low=["8.4", "2.1", "4.2"],
        high=["10.2", "2.55", "5.1"],
    )
    assert batch["value"] == pytest.approx([9.2, 9.218, 9.218], abs=1e-3)
    assert batch["low"] == pytest.approx([8.4, 8.417, 8.417], abs=1e-3)
    assert set(batch["unit"]) == {"mg/dL"}
    assert set(batch["analyte"]) == {"calcium"}
    assert batch["reason"] == [None] * 3


def test_an_unknown_unit_is_kept_and_told():
    counts = Counts()
    batch = build(["9.2", "Negative"], counts, component=["CALCIUM"] * 2, unit=["mg/spoon"] * 2, low=[8.0, 8.0])
    assert batch["value"] == [9.2, None]
    assert batch["unit"] == ["mg/spoon"] * 2
    assert batch["reason"] == ["unknown_unit", "categorical"]
    assert counts["unknown_unit_spelling", "CALCIUM [mg/spoon]"] == 2


def test_a_number_in_the_wrong_unit_is_implausible():
    counts = Counts()
    batch = build(["140", "4.0"], counts, component=["CALCIUM, IONIZED", "POTASSIUM"], unit=["mmol/L", "mmol/L"])
    assert batch["value"] == [None, 4.0]
    assert batch["reason"] == ["implausible", None]
    assert counts["implausible", "CALCIUM, IONIZED"] == 1


def test_several_names_make_one_analyte_and_strangers_keep_theirs():
    names = ["POTASSIUM", "POC:POTASSIUM, ISTAT", "CONTROL A", "GLUCOSE, URINE (UA)"]
    batch = build(
        ["4", "4", "3.3", "1+"], component=names, unit=["mmol/L", None, "au", None], high=[None, None, 4.0, None]
    )
    assert batch["component"] == names
    assert batch["analyte"] == ["potassium", "potassium", "control_a", "glucose_urine_ua"]
    assert batch["unit"] == ["mmol/L", "mmol/L", "au", None]
    assert (batch["value"][2], batch["high"][2]) == (3.3, 4.0)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0, 0.0, (None, None)),
        (3.5, 5.1, (3.5, 5.1)),
        (None, 5.1, (None, 5.1)),
        (3.5, None, (3.5, None)),
        (3.5, 0.0, (3.5, None)),  # 0 for "no upper limit"
        (5.1, 3.5, (None, None)),
        (0.0, None, (None, None)),
        (-999.0, 999999.0, (None, None)),
        (-99999.0, 99999999.0, (None, None)),
    ],
)
def test_ranges_that_are_none(low, high, expected):
    batch = build(
        ["4.0"], component=["POTASSIUM"], low=pa.array([low], pa.float64()), high=pa.array([high], pa.float64())
    )
    assert (batch["low"][0], batch["high"][0]) == expected


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("Normal", "normal"),
        ("Abnormal Low", "low"),
        ("Critical Low", "low"),
        ("Abnormal High", "high"),
        ("CRITICAL HIGH", "high"),
        ("H", "high"),
        ("Abnormal", "high"),  # the side is told by the row's own range
        ("abnormal", "high"),
        ("delta", None),
        ("", None),
        (None, None),
    ],
)
def test_flags_as_laboratories_spell_them(flag, expected):
    counts = Counts()
    batch = build(["6.0"], counts, component=["POTASSIUM"], flag=pa.array([flag], pa.string()), low=[3.5], high=[5.1])
    assert batch["flag"] == [expected]
    assert not counts


def test_a_flag_without_a_side_needs_a_range_and_a_strange_one_is_counted():
    counts = Counts()
    names = ["POTASSIUM", "SARS-COV-2 RNA", "POTASSIUM", "POTASSIUM"]
    flags = ["Abnormal", "Abnormal", "Abnrml", "Abnormal"]
    batch = build(["3.0", "Detected", "6", ">10.0"], counts, component=names, flag=flags, low=[3.5] * 4, high=[5.1] * 4)
    assert batch["flag"] == ["low", "abnormal", None, "high"]
    assert counts["undirected_flag", ""] == 1
    assert counts["unknown_flag", "Abnrml"] == 1


def test_a_censored_value_keeps_its_sign_through_conversion():
    batch = build([">221", "<2"], component=["CREATININE", "BLOOD UREA NITROGEN (BUN)"], unit=["umol/L", "mg/dL"])
    assert batch["value"] == pytest.approx([2.4994, 2.0], abs=1e-3)
    assert batch["censored"] == [">", "<"]


def test_several_reasons_stand_beside_each_other():
    counts = Counts()
    batch = build(["Negative"], counts, component=["SODIUM"], order_time=["yesterday"], reason=["unknown_encounter"])
    assert batch["reason"] == ["categorical|bad_time|unknown_encounter"]
    assert counts == {(r, "SODIUM"): 1 for r in ("categorical", "bad_time", "unknown_encounter")}


def test_lines_that_are_no_rows_still_add_up():
    counts = Counts()
    (batch,) = malformed(3, "labs.csv", counts)
    assert batch.schema == LABELS
    assert batch["reason"].to_pylist() == ["malformed_row"] * 3
    assert counts["malformed_row", "labs.csv"] == 3
    assert malformed(0, "labs.csv", counts) == []

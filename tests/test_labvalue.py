"""Results as laboratories write them, and what may be said of censored ones."""

import math

import numpy as np
import pyarrow as pa
import pytest

from anyecg_ray.labvalue import Reason, beyond, direction_labels, parse, parse_column


@pytest.mark.parametrize(
    ("text", "value", "censored"),
    [
        ("4.1", 4.1, None),
        (" 4.1 ", 4.1, None),
        (".38", 0.38, None),
        ("12.", 12.0, None),
        ("-2.5", -2.5, None),
        ("16,084", 16084, None),
        ("1,234,567.5", 1234567.5, None),
        ("5.9 H", 5.9, None),
        ("5.9*", 5.9, None),
        ("1e3", 1000, None),
        (">10.0", 10.0, ">"),
        ("> 10.0", 10.0, ">"),
        ("<2", 2.0, "<"),
        ("<15.0  ", 15.0, "<"),
        ("<=0.04", 0.04, "<"),
        ("≥60", 60.0, ">"),
        ("GREATER THAN 1,000", 1000.0, ">"),
        ("Less than 0.01", 0.01, "<"),
        (">20,000", 20000.0, ">"),
    ],
)
def test_numbers(text, value, censored):
    assert parse(text) == (value, censored, None)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, Reason.EMPTY),
        ("", Reason.EMPTY),
        ("NaN", Reason.EMPTY),
        ("___", Reason.DEIDENTIFIED),
        ("Negative", Reason.CATEGORICAL),
        ("SEE COMMENT", Reason.CATEGORICAL),
        ("Not Detected", Reason.CATEGORICAL),
        ("1+", Reason.CATEGORICAL),
        ("1:160", Reason.CATEGORICAL),
        ("1,5", Reason.CATEGORICAL),
        ("12,34", Reason.CATEGORICAL),
        ("1e999", Reason.SENTINEL),
        ("0-2", Reason.INTERVAL),
        ("5 - 10", Reason.INTERVAL),
        ("-999", Reason.SENTINEL),
        ("999999", Reason.SENTINEL),
        ("999,999", Reason.SENTINEL),
        ("-999.00", Reason.SENTINEL),
    ],
)
def test_no_numbers(text, reason):
    assert parse(text) == (None, None, reason)


def test_shorter_runs_of_nines_are_numbers():
    assert parse("9999").value == 9999


def test_a_column_parses_like_its_cells():
    texts = [">10.0", None, "4.1", "Negative", "4.1", ""]
    results = parse_column(pa.array(texts))
    for i, text in enumerate(texts):
        value, censored, reason = parse(text)
        assert results.value[i] == value or (value is None and math.isnan(results.value[i]))
        assert (results.censored[i], results.reason[i]) == (censored or "", reason or "")


def test_the_sources_own_number_goes_before_its_text():
    texts = pa.array(["___", "<0.01", "4.1", "NEG", "___", "5"])
    results = parse_column(texts).prefer(np.array([4.4, 0.01, 4.15, np.nan, np.nan, 999999]))
    np.testing.assert_array_equal(results.value, [4.4, 0.01, 4.15, np.nan, np.nan, np.nan])
    assert results.censored.tolist()[:3] == ["", "<", ""]
    assert results.reason.tolist() == ["", "", "", Reason.CATEGORICAL, Reason.DEIDENTIFIED, Reason.SENTINEL]


def test_a_second_text_helps_where_the_first_has_no_number_or_hides_a_bound():
    first = parse_column(pa.array(["10.0", None, "16084", "3.1", None, "SEE COMMENT"]))
    second = parse_column(pa.array([">10.0", "<2", "16,084", "Normal", "Positive", "7"]))
    results = first.or_else(second)
    np.testing.assert_array_equal(results.value, [10, 2, 16084, 3.1, np.nan, 7])
    assert results.censored.tolist() == [">", "<", "", "", "", ""]
    assert results.reason.tolist() == ["", "", "", "", Reason.CATEGORICAL, ""]


def side(direction, value, censored, low, high):
    column = [pa.array([value], pa.float64()), pa.array([censored], pa.string())]
    limits = [pa.array([low], pa.float64()), pa.array([high], pa.float64())]
    label = beyond(direction, *column, *limits)[0]
    return None if math.isnan(label) else bool(label)


@pytest.mark.parametrize(
    ("value", "censored", "low", "high", "is_low", "is_high"),
    [
        (6.0, None, 3.5, 5.1, False, True),
        (5.1, None, 3.5, 5.1, False, False),  # the limits belong to the range
        (3.5, None, 3.5, 5.1, False, False),
        (3.4, None, 3.5, 5.1, True, False),
        (10.0, ">", 3.5, 5.1, False, True),  # decided by the bound
        (5.1, ">", 3.5, 5.1, False, True),
        (4.0, ">", 3.5, 5.1, False, None),  # may be anything above 4.0
        (2.0, ">", 3.5, 5.1, None, None),
        (2.0, "<", 8.0, 20.0, True, False),
        (10.0, "<", 8.0, 20.0, None, False),
        (30.0, "<", 8.0, 20.0, None, None),
        (6.0, None, None, 5.1, None, True),  # no lower limit: nothing can be said of low
        (6.0, None, None, None, None, None),
        (None, None, 3.5, 5.1, None, None),
    ],
)
def test_a_censored_value_decides_only_where_its_bound_does(value, censored, low, high, is_low, is_high):
    assert side("low", value, censored, low, high) is is_low
    assert side("high", value, censored, low, high) is is_high


def test_the_laboratorys_flag_goes_before_the_range():
    flag = pa.array(["normal", "low", "high", None, None])
    result = {
        "value": pa.array([9.0, 4.0, None, 9.0, None]),
        "censored": pa.nulls(5, pa.string()),
        "low": pa.array([3.5] * 5),
        "high": pa.array([5.1] * 5),
    }
    labels = direction_labels(flag, **result)
    np.testing.assert_array_equal(labels["high"], [0, 0, 1, 1, np.nan])
    np.testing.assert_array_equal(labels["low"], [0, 1, 0, 0, np.nan])


def test_abnormal_without_a_side_is_explained_by_the_range_or_unknown():
    nan = np.nan
    result = {
        "value": pa.array([6.0, 3.0, 4.0, 6.0, None, 4.0]),
        "censored": pa.array([None, None, None, None, None, ">"], pa.string()),
        "low": pa.array([3.5, 3.5, 3.5, None, 3.5, 3.5]),
        "high": pa.array([5.1] * 6),
    }
    labels = direction_labels(pa.array(["abnormal"] * 6), **result)
    np.testing.assert_array_equal(labels["high"], [1, 0, nan, 1, nan, nan])
    np.testing.assert_array_equal(labels["low"], [0, 1, nan, 0, nan, nan])

"""Labels come from a draw that is near enough and can be read; what was not measured is missing, never negative."""

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from anyecg_ray import align
from anyecg_ray.align import Align, Clock, Draws
from anyecg_ray.analytes import Indicator
from anyecg_ray.config import InputError
from anyecg_ray.owners import Who
from anyecg_ray.schema import LABELS

NOON = datetime(2301, 5, 1, 12, tzinfo=UTC)  # MC-MED's years: nanoseconds end in 2262

KEYS = ("potassium_high", "potassium_low", "potassium_value")


def at(minutes: float) -> datetime:
    return NOON + timedelta(minutes=minutes)


def micros(when: datetime) -> int:
    return int(pa.scalar(when, pa.timestamp("us", "UTC")).value)


def result(minutes: float | None = 0, value: float | None = 4.0, **more: Any) -> dict[str, Any]:
    """A potassium of encounter E, range 3.5 to 5.1, ordered after so many minutes; `more` overrides."""
    row = dict.fromkeys(LABELS.names) | {"patient_id": "P", "encounter_id": "E", "component": "K"}
    row |= {"analyte": "potassium", "value": value, "unit": "mmol/L", "low": 3.5, "high": 5.1}
    return row | {"order_time": None if minutes is None else at(minutes)} | more


def collected(
    *rows: dict[str, Any], clock: Clock = "order", sex: dict[str, str] | None = None, recorded: list[Who] | None = None
) -> Draws:
    batch = pa.RecordBatch.from_pylist(list(rows), schema=LABELS)
    return align.collect([batch], clock, sex or {}, recorded or [("E", "P"), ("F", "P")], "labs.csv")


def labelled(draws: Draws, minutes: float, *keys: str, clock: Clock = "order", **rule: Any) -> list[float]:
    """Labels of one window of encounter E whose middle is so many minutes after noon."""
    found = align.match(np.array([micros(at(minutes))]), draws, draws.of("E", "P"), Align(**rule), clock)
    return align.labels(found, draws, [Indicator.parse(k) for k in keys or KEYS])[0].tolist()


def test_a_window_gets_the_draw_near_it_in_all_three_forms() -> None:
    assert labelled(collected(result(0, 6.0)), 5) == [1, 0, 6]
    assert labelled(collected(result(0, 3.0)), 5) == [0, 1, 3]
    assert labelled(collected(result(0, 4.0)), 5) == [0, 0, 4]


def test_what_was_not_measured_is_missing_and_not_negative() -> None:
    draws = collected(result(0, 6.0), result(0, 1.0, analyte="lactate", component="LACTATE"))
    assert labelled(draws, 5, "calcium_low", "potassium_high")[1] == 1
    assert np.isnan(labelled(draws, 5, "calcium_low"))[0]
    assert np.isnan(labelled(collected(result(0, 6.0)), 1000)).all()  # measured, but at another time
    assert np.isnan(labelled(collected(result(0, None, reason="categorical")), 5)).all()
    assert np.isnan(labelled(collected(), 5)).all()


@pytest.mark.parametrize(("minutes", "there"), [(-61, False), (-59, True), (29, True), (31, False)])
def test_limits_before_and_after_the_draw_differ(minutes: float, there: bool) -> None:
    told = labelled(collected(result(0, 6.0)), minutes, before=60, after=30)
    assert np.isfinite(told).all() == there


def test_the_offset_moves_the_draw() -> None:
    draws = collected(result(0, 6.0))
    assert np.isnan(labelled(draws, 40, before=10, after=10)).all()
    assert labelled(draws, 40, before=10, after=10, offset=35) == [1, 0, 6]
    assert labelled(draws, -40, before=10, after=10, offset=-35) == [1, 0, 6]


def test_nearest_and_first_draw() -> None:
    draws = collected(result(50, 6.0), result(0, 3.0), result(500, 4.0))
    assert labelled(draws, 40) == [1, 0, 6]
    assert labelled(draws, 40, pick="first") == [0, 1, 3]


@pytest.mark.parametrize("clock", ["order", "result", "chart", "store"])
def test_each_clock_is_read_from_its_own_column(clock: Clock) -> None:
    times = {f"{c}_time": at(1000) for c in ("order", "result", "chart", "store") if c != clock}
    draws = collected(result(None, 6.0, **(times | {f"{clock}_time": at(0)})), clock=clock)
    assert labelled(draws, 5, clock=clock) == [1, 0, 6]


def test_a_result_without_the_clock_labels_nothing_unless_time_does_not_matter() -> None:
    assert np.isnan(labelled(collected(result(None, 6.0)), 0)).all()
    assert labelled(collected(result(None, 6.0), clock="none"), 10_000, clock="none") == [1, 0, 6]


def test_results_of_another_visit_of_the_patient_label_nothing() -> None:
    assert np.isnan(labelled(collected(result(0, 6.0, encounter_id="F")), 5)).all()


def test_results_that_know_no_visit_label_the_patient() -> None:
    assert labelled(collected(result(0, 6.0, encounter_id=None)), 5) == [1, 0, 6]


def potassium(encounter: str | None, patient: str | None, value: float) -> dict[str, Any]:
    return result(0, value, encounter_id=encounter, patient_id=patient)


def whose_values(draws: Draws, recorded: list[Who]) -> list[list[float]]:
    return [draws.value[draws.of(*who)].tolist() for who in recorded]


def test_encounters_numbered_anew_for_each_patient_keep_their_own_results() -> None:
    abc: list[Who] = [("1", "A"), ("1", "B"), ("1", "C")]
    rows = [potassium(*who, value) for who, value in zip(abc, (4.0, 4.2, 7.1), strict=True)]
    told = whose_values(collected(*rows, recorded=abc), abc)
    assert told == [[pytest.approx(v)] for v in (4.0, 4.2, 7.1)]
    assert whose_values(collected(potassium("1", "D", 9.0), recorded=abc), abc) == [[], [], []]


def test_who_names_no_patient_is_found_by_an_encounter_of_one_patient() -> None:
    assert whose_values(collected(potassium("1", None, 4.0), recorded=[("1", "A")]), [("1", "A")]) == [[4]]
    assert whose_values(collected(potassium("1", "A", 4.0), recorded=[("1", None)]), [("1", None)]) == [[4]]


def test_a_result_of_nobody_told_whose_encounter_is_recorded_of_two_is_refused() -> None:
    with pytest.raises(InputError, match=r"labs\.csv: an encounter's id .*name the patient in every row"):
        collected(potassium("1", None, 7.1), recorded=[("1", "A"), ("1", "B")])


def test_results_of_two_patients_for_an_encounter_recorded_of_nobody_told_are_refused() -> None:
    rows = [potassium("1", "A", 4.0), potassium("1", "A", 4.1), potassium("1", "B", 7.1)]
    assert len(whose_values(collected(*rows[:2], recorded=[("1", None)]), [("1", None)])[0]) == 2
    with pytest.raises(InputError, match=r"labs\.csv: an encounter's id .*so that it names patients"):
        collected(*rows, recorded=[("1", None)])


def test_the_laboratory_s_flag_goes_before_its_range_and_that_before_the_analyte_s() -> None:
    assert labelled(collected(result(0, 5.5, flag="normal")), 5, "potassium_high") == [0]
    assert labelled(collected(result(0, 5.5, high=6.0)), 5, "potassium_high") == [0]
    assert labelled(collected(result(0, 5.5, low=None, high=None)), 5, "potassium_high") == [1]


def test_an_abnormal_result_without_a_side_is_never_a_negative() -> None:
    high, low, value = labelled(collected(result(0, 4.2, flag="abnormal")), 5)
    assert np.isnan([high, low]).all()
    assert value == pytest.approx(4.2)
    bare = {"low": None, "high": None, "flag": "abnormal"}
    assert np.isnan(labelled(collected(result(0, 4.2, **bare)), 5, "potassium_high", "potassium_low")).all()
    assert labelled(collected(result(0, 6.0, **bare)), 5) == [1, 0, 6]


def test_the_analyte_s_range_is_that_of_the_patient_s_sex() -> None:
    row = result(0, 12.5, analyte="hemoglobin", component="HGB", unit="g/dL", low=None, high=None)
    assert labelled(collected(row, sex={"P": "M"}), 5, "hemoglobin_low") == [1]
    assert labelled(collected(row, sex={"P": "F"}), 5, "hemoglobin_low") == [0]


def test_a_value_in_an_unknown_unit_is_never_held_against_the_analyte_s_own_range() -> None:
    row = result(0, 40.0, unit="drops", low=None, high=None, reason="unknown_unit")
    assert np.isnan(labelled(collected(row), 5)).all()
    high, low, value = labelled(collected(row | {"low": 30.0, "high": 35.0}), 5)
    assert (high, low) == (1, 0)
    assert np.isnan(value)  # 40 drops are no 40 mmol/L


def test_a_censored_value_labels_where_its_bound_decides_and_is_no_value() -> None:
    high, low, value = labelled(collected(result(0, 10.0, censored=">")), 5)
    assert (high, low) == (1, 0)
    assert np.isnan(value)
    assert np.isnan(labelled(collected(result(0, 4.0, censored=">")), 5, "potassium_high"))[0]


def test_a_draw_that_tells_nothing_does_not_hide_one_that_does() -> None:
    hollow = result(4, None, reason="categorical", low=None, high=None)
    assert labelled(collected(hollow, result(0, 6.0)), 5) == [1, 0, 6]


def test_a_component_without_an_analyte_works_under_its_own_name_and_range() -> None:
    row = result(0, 9.0, analyte="control_a", component="CONTROL A", low=1.0, high=5.0)
    assert labelled(collected(row), 5, "control_a_high") == [1]


def test_a_window_has_one_draw_of_an_analyte_at_most() -> None:
    draws = collected(result(0, 6.0), result(1, 3.0))
    high, low, value = labelled(draws, 0.6)
    assert (high, low, value) == (0, 1, 3)  # all three of the same draw

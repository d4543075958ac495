"""A patient is in one part, whatever the rule; a planted one in two is refused."""

from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest

from anyecg_ray import splits
from anyecg_ray.config import InputError
from anyecg_ray.splits import Person

START = datetime(2290, 1, 1, tzinfo=UTC)


def person(number: int, patient: str | None = "", day: float | None = None, **own: str | None) -> Person:
    when = None if day is None else START + timedelta(days=day)
    return Person(f"e{number}", f"p{number}" if patient == "" else patient, when, None, None, dict(own))


def test_the_data_set_s_own_split_is_taken_first_and_others_by_name() -> None:
    people = [person(i, random=r, chrono=c) for i, (r, c) in enumerate([("train", "val"), ("test", "train")])]
    assert splits.assign(people, "auto", "x") == (["train", "test"], "random")
    assert splits.assign(people, "chrono", "x") == (["val", "train"], "chrono")


def test_folds_and_then_the_hash_where_there_is_no_random_split() -> None:
    assert splits.assign([person(0, fold="val")], "auto", "x")[1] == "fold"
    assert splits.assign([person(0)], "auto", "x")[1] == "hash"


def test_an_encounter_without_a_part_is_in_none() -> None:
    parts, _ = splits.assign([person(0, random="train"), person(1, random=None)], "random", "x")
    assert parts == ["train", None]


def test_a_split_that_the_data_set_lacks_is_refused() -> None:
    with pytest.raises(InputError, match="no split chrono of its own; give hash"):
        splits.assign([person(0, random="train")], "chrono", "archive")


@pytest.mark.parametrize("rule", ["random", "chrono", "fold"])
def test_a_planted_patient_in_two_parts_is_refused(rule: splits.Split) -> None:
    planted = [person(i, **{rule: "train"}) for i in range(5)]
    planted += [person(7, "twice", **{rule: "train"}), person(8, "twice", **{rule: "test"})]
    with pytest.raises(InputError, match="1 patients are in more than one split; a patient must be in one"):
        splits.assign(planted, rule, "archive")


def test_the_hash_keeps_patients_together_and_shares_80_10_10() -> None:
    people = [person(i, f"p{i // 3}") for i in range(9000)]
    parts, _ = splits.assign(people, "hash", "x")
    assert all(len(set(parts[3 * k : 3 * k + 3])) == 1 for k in range(3000))
    share = {part: n / 9000 for part, n in Counter(parts).items()}
    assert share["train"] == pytest.approx(0.8, abs=0.03)
    assert share["val"] == pytest.approx(0.1, abs=0.02)
    assert share["test"] == pytest.approx(0.1, abs=0.02)


def test_the_hash_is_the_same_in_every_run_and_release() -> None:
    # stored segments and bundles depend on it: a change would move patients between training and test
    assert [splits.by_hash(p) for p in ("10000032", "99263944", "6")] == ["train", "test", "test"]


def test_parts_by_time_follow_each_other_and_keep_patients_together() -> None:
    people = [person(i, day=i) for i in range(20)] + [person(100, "p0", day=500)]
    parts, _ = splits.assign(people, "time", "x")
    assert parts[:20] == ["train"] * 16 + ["val"] * 2 + ["test"] * 2
    assert parts[20] == "train"  # with the patient's first


def test_time_needs_times() -> None:
    with pytest.raises(InputError, match="encounters have no time"):
        splits.assign([person(0)], "time", "x")


def test_encounters_of_nobody_known_are_patients_of_their_own() -> None:
    people = [person(0, None, random="train"), person(1, None, random="test")]
    assert splits.assign(people, "random", "x")[0] == ["train", "test"]

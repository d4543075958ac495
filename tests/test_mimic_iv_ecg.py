"""MIMIC-IV-ECG and MIMIC-IV's laboratory: real patients and items of the open demo, labevents in its form."""

import gzip
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest

from anyecg_ray import align
from anyecg_ray.config import InputError
from anyecg_ray.datasets import mimic_iv_ecg
from anyecg_ray.labtable import Counts
from anyecg_ray.schema import ENCOUNTERS, LABELS

HEADER = (
    "labevent_id,subject_id,hadm_id,specimen_id,itemid,order_provider_id,charttime,storetime,value,valuenum,"
    "valueuom,ref_range_lower,ref_range_upper,flag,priority,comments"
)
# subject, itemid, value, valuenum, unit, low, high, flag
EVENTS = [
    (10014729, 50971, "5.9", "5.9", "mEq/L", "3.3", "5.1", "abnormal"),
    (10014729, 50971, "___", "4.4", "mEq/L", "3.3", "5.1", ""),
    (10014729, 50971, "___", "", "mEq/L", "3.3", "5.1", ""),
    (10014729, 50934, "3", "3", "", "", "", ""),
    (10014729, 50947, "1", "1", "", "", "", ""),
    (10014729, 51678, "9", "9", "", "", "", ""),
    (10003400, 51003, "<0.01", "", "ng/mL", "0", "0.01", ""),
    (10003400, 51003, "LESS THAN 0.01", "0.01", "ng/mL", "0", "0.01", ""),
    (10003400, 51478, "NEG", "", "mg/dL", "", "", ""),
    (10003400, 50931, "999999", "999999", "mg/dL", "70", "105", "abnormal"),
    (10003400, 52610, "4.2", "4.2", "mEq/L", "0", "0", ""),
    (10003400, 50822, "2.9", "2.9", "mEq/L", "3.3", "5.1", "abnormal"),
    (10002428, 50912, "1.0", "1.0", "mg/dL", "0.4", "1.1", ""),
    (10002428, 59999, "7", "7", "", "", "", "delta"),
]


@pytest.fixture
def hosp(tmp_path, data):
    folder = tmp_path / "mimiciv" / "hosp"
    folder.mkdir(parents=True)
    demo = data / "mimic-iv-demo-tables"
    (folder / "d_labitems.csv.gz").write_bytes(gzip.compress((demo / "d_labitems.csv").read_bytes()))
    (folder / "patients.csv").write_bytes((demo / "patients.csv").read_bytes())
    lines = [HEADER]
    for i, (subject, item, value, number, unit, low, high, flag) in enumerate(EVENTS):
        times = f"2180-05-06 22:{i:02d}:00,2180-05-06 23:{i:02d}:00"
        lines.append(f'{i},{subject},,1,{item},,{times},{value},{number},{unit},{low},{high},{flag},STAT,"A, ""note"""')
    (folder / "labevents.csv.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    return folder


@pytest.fixture
def archive(tmp_path):
    folder = tmp_path / "ecg"
    folder.mkdir()
    (folder / "record_list.csv").write_text(
        "subject_id,study_id,file_name,ecg_time,path\n"
        "10014729,45106466,45106466,2127-09-22 12:04:00,files/p1001/p10014729/s45106466/45106466\n"
        "10003400,40000017,40000017,2136-01-01 00:00:00,files/p1000/p10003400/s40000017/40000017\n"
        "19999999,40000018,40000018,2136-01-01 00:00:00,files/p1999/p19999999/s40000018/40000018\n"
    )
    columns = "rr_interval,p_onset,p_end,qrs_onset,qrs_end,t_end,p_axis,qrs_axis,t_axis"
    (folder / "machine_measurements.csv").write_text(
        f"subject_id,study_id,cart_id,ecg_time,report_0,report_1,bandwidth,filtering,{columns}\n"
        '10014729,45106466,7,2127-09-22 12:04:00,"Sinus rhythm, normal",,0.005-150 Hz,60 Hz,'
        "800,40,150,200,290,580,60,-30,45\n"
        "10003400,40000017,7,2136-01-01 00:00:00,Atrial fibrillation,,0.005-150 Hz,60 Hz,"
        "65535,29999,29999,200,180,580,29999,370,-360\n"
    )
    return folder


def labels(hosp, of=None, counts=None):
    batches = list(mimic_iv_ecg.labels(str(hosp), of, counts))
    assert all(b.schema == LABELS for b in batches)
    return pa.Table.from_batches(batches).to_pylist()


def test_one_row_per_result_but_for_the_quality_of_the_sample(hosp):
    counts = Counts()
    rows = labels(hosp, counts=counts)
    assert len(rows) == len(EVENTS) - 3
    assert counts["excluded_item", "labevents.csv"] == 3
    assert {"h", "i", "l"}.isdisjoint(r["analyte"] for r in rows)
    assert labels(hosp.parent) == rows  # the release above the module will do


def test_valuenum_goes_before_value(hosp):
    rows = labels(hosp)
    assert [(r["value"], r["reason"]) for r in rows[:3]] == [(5.9, None), (4.4, None), (None, "deidentified")]


GROSSLY = "HEMOLYSIS FALSELY ELEVATES K. GROSSLY HEMOLYZED."


@pytest.mark.parametrize(
    ("item", "comment", "left"),
    [
        (50971, GROSSLY, False),
        (50954, "slightly haemolysed", False),
        (50878, GROSSLY, False),
        (50960, GROSSLY, False),
        (50970, GROSSLY, False),
        (50971, "LIPEMIC SPECIMEN", True),
        (50971, "", True),
        (50912, GROSSLY, True),  # creatinine
    ],
)
def test_haemolysis_leaves_out_what_red_cells_hold(hosp, item, comment, left):
    line = f'1,11,,1,{item},,2180-05-06 22:00:00,2180-05-06 23:00:00,7.4,7.4,mEq/L,3.3,5.1,abnormal,STAT,"{comment}"'
    (hosp / "labevents.csv.gz").write_bytes(gzip.compress(f"{HEADER}\n{line}\n".encode()))
    counts = Counts()
    (row,) = labels(hosp, counts=counts)
    assert (row["value"] is not None, row["flag"] is not None) == (left, left)
    assert counts["haemolysed", row["component"]] == (not left)
    batch = pa.RecordBatch.from_pylist([row], schema=LABELS)
    assert (len(align.collect([batch], "chart", {}, [(None, "11")], "hosp").time) == 1) == left


def test_a_table_without_comments_is_read(hosp):
    with_comments = labels(hosp)
    plain = gzip.decompress((hosp / "labevents.csv.gz").read_bytes()).decode()
    plain = plain.replace(",comments", "").replace(',"A, ""note"""', "")
    (hosp / "labevents.csv.gz").write_bytes(gzip.compress(plain.encode()))
    assert labels(hosp) == with_comments


def test_the_clocks_are_chart_and_store_time(hosp):
    row = labels(hosp)[0]
    assert row["chart_time"] == datetime(2180, 5, 6, 22, 0, tzinfo=UTC)
    assert row["store_time"] == datetime(2180, 5, 6, 23, 0, tzinfo=UTC)
    assert (row["order_time"], row["result_time"], row["encounter_id"]) == (None, None, None)


def test_censored_text_keeps_its_sign_with_and_without_a_number(hosp):
    troponin = [r for r in labels(hosp) if r["analyte"] == "troponin_t"]
    assert [(r["value"], r["censored"]) for r in troponin] == [(0.01, "<"), (0.01, "<")]


def test_one_analyte_has_several_items_and_one_name_several_fluids(hosp):
    rows = labels(hosp)
    potassium = [r for r in rows if r["analyte"] == "potassium"]
    assert {r["component"] for r in potassium} == {"Potassium", "Potassium, Whole Blood"}
    assert {r["unit"] for r in potassium} == {"mmol/L"}
    urine = next(r for r in rows if r["component"] == "Glucose (Urine)")
    assert (urine["analyte"], urine["reason"]) == ("glucose_urine", "categorical")


def test_flags_and_ranges(hosp):
    rows = labels(hosp)
    by_item = {(r["component"], r["value"]): r for r in rows}
    assert by_item["Potassium", 5.9]["flag"] == "high"
    assert by_item["Potassium, Whole Blood", 2.9]["flag"] == "low"
    assert by_item["Potassium", 4.4]["flag"] is None
    assert (by_item["Potassium", 4.2]["low"], by_item["Potassium", 4.2]["high"]) == (None, None)  # 0 to 0


def test_sentinels_and_items_without_a_name(hosp):
    rows = labels(hosp)
    glucose = next(r for r in rows if r["component"] == "Glucose")
    assert (glucose["value"], glucose["reason"]) == (None, "sentinel")
    assert rows[-1]["component"] == "itemid 59999"
    assert (rows[-1]["analyte"], rows[-1]["value"], rows[-1]["flag"]) == ("itemid_59999", 7.0, None)


def test_results_of_patients_without_an_ecg_are_left_out_and_counted(hosp, archive):
    counts = Counts()
    rows = labels(hosp, mimic_iv_ecg.subjects(str(archive)), counts)
    assert {r["patient_id"] for r in rows} == {"10014729", "10003400"}
    assert counts["patient_without_ecg", "labevents.csv"] == 2
    assert len(rows) == len(EVENTS) - 3 - 2


def test_encounters_are_ecgs_with_the_age_at_their_time(archive, hosp):
    batches = list(mimic_iv_ecg.encounters(str(archive), str(hosp)))
    assert all(b.schema == ENCOUNTERS for b in batches)
    rows = pa.Table.from_batches(batches).to_pylist()
    assert [r["encounter_id"] for r in rows] == ["45106466", "40000017", "40000018"]
    assert [(r["age"], r["sex"]) for r in rows] == [(23, "F"), (74, "F"), (None, None)]
    assert rows[0]["start_time"] == datetime(2127, 9, 22, 12, 4, tzinfo=UTC)


def test_nobody_is_older_than_91(archive, hosp):
    (hosp / "patients.csv").write_text("subject_id,gender,anchor_age,anchor_year\n10014729,M,91,2120\n")
    (batch,) = mimic_iv_ecg.encounters(str(archive), str(hosp))
    assert batch["age"].to_pylist() == [91, None, None]


def test_encounters_without_hosp_have_no_age(archive):
    (batch,) = mimic_iv_ecg.encounters(str(archive))
    assert batch["age"].null_count == 3


def test_measurements_of_the_cart_lose_their_sentinels(archive):
    counts = Counts()
    rows = pa.Table.from_batches(list(mimic_iv_ecg.measurements(str(archive), counts))).to_pylist()
    first = {r["component"]: r["value"] for r in rows if r["encounter_id"] == "45106466"}
    assert first == {
        "rr_interval": 800, "pr_interval": 160, "qrs_duration": 90, "qt_interval": 380,
        "p_axis": 60, "qrs_axis": -30, "t_axis": 45,
    }  # fmt: skip
    second = {r["component"]: (r["value"], r["reason"]) for r in rows if r["encounter_id"] == "40000017"}
    assert second.pop("qt_interval") == (380, None)
    assert second.pop("t_axis") == (-360, None)
    assert set(second.values()) == {(None, "sentinel")}  # among them a QRS that ends before it begins
    assert sum(counts.values()) == len(second) == 5
    assert {r["unit"] for r in rows} == {"ms", "deg"}


def test_real_items_are_named(hosp):
    names = mimic_iv_ecg.items(str(hosp))
    assert len(names) > 1600
    assert (names["50971"], names["51478"]) == ("Potassium", "Glucose (Urine)")


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(InputError, match=r"no d_labitems\.csv here"):
        list(mimic_iv_ecg.labels(str(tmp_path)))


def test_a_big_gzipped_table_is_read_in_batches(hosp, monkeypatch):
    monkeypatch.setattr("anyecg_ray.tables.BLOCK", 1 << 16)
    rng = np.random.default_rng(0)
    values = [f"{v:.1f}" for v in rng.normal(4, 1, 20000).clip(1, 9)]
    text = HEADER + "\n" + "".join(
        f"{i},10014729,,1,50971,,2180-05-06 22:00:00,,{v},{v},mEq/L,3.3,5.1,,,\n" for i, v in enumerate(values)
    )  # fmt: skip
    (hosp / "labevents.csv.gz").write_bytes(gzip.compress(text.encode()))
    batches = list(mimic_iv_ecg.labels(str(hosp)))
    assert len(batches) > 5
    assert [str(v) for b in batches for v in b["value"].to_pylist()] == values

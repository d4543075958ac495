"""MC-MED's tables: both releases, one row per line of labs.csv, and every trap that public code has fallen into."""

import gzip
from datetime import UTC, datetime

import pyarrow as pa
import pytest

from anyecg_ray.config import InputError
from anyecg_ray.datasets import mc_med
from anyecg_ray.labtable import Counts
from anyecg_ray.schema import ENCOUNTERS, LABELS

VISITS = """MRN,CSN,Visit_no,Visits,Age,Gender,Race,Ethnicity,Triage_acuity,ED_dispo,Arrival_time,Departure_time
M1,99000101,1,2,53,F,White,Not Hispanic,3-Urgent,Discharge,2261-12-31T23:50:00Z,2262-01-01T04:00:00Z
M1,99000102,2,2,54,F,White,Not Hispanic,2-Emergent,ICU,2263-06-01T10:00:00.500Z,2263-06-01T18:00:00Z
M2,99000203,1,1,90,M,Asian,Not Hispanic,3-Urgent,Inpatient,2295-07-04T08:00:00Z,
M3,99000304,1,1,,U,,,,Discharge,2205-01-01T00:00:00Z,2205-01-01T02:00:00Z
"""
HEADER = (
    "CSN,Order_time,Result_time,Display_name,Abnormal,Component_name,Component_result,Component_value,"
    "Component_units,Component_abnormal,Component_nml_low,Component_nml_high"
)
T = "2295-07-04T08:10:00Z,2295-07-04T09:00:00Z"
U = "2263-06-01T10:05:00.250Z,2263-06-01T11:00:00Z"
LABS = [
    "99000101,2261-12-31T23:55:00Z,2262-01-01T00:40:00Z,BMP,,POTASSIUM,4.1,4.1,mmol/L,Normal,3.5,5.1",
    f"99000102,{U},BMP,Critical,POTASSIUM,>10.0,>10.0,mmol/L,Critical High,3.5,5.1",
    f"99000102,{U},BMP,,BLOOD UREA NITROGEN (BUN),<2,<2,mg/dL,Abnormal Low,8,20",
    f'99000203,{T},CBC,,WHITE BLOOD CELLS (WBC),"16,084","16,084",/uL,,4000,11000',
    f"99000203,{T},PCR,,SARS-COV-2 RNA,Not Detected,,,Normal,,",
    f"99000203,{T},ISTAT,,\"POC:POTASSIUM, ISTAT\",4.4,4.4,mmol/L,Normal,0,0",
    f"99000203,{T},BMP,,CALCIUM,2.31,2.31,mmol/L,Abnormal,2.1,2.55",
    f"99000203,{T},BMP,,SODIUM,999999,999999,mmol/L,Normal,136,145",
    f"99000203,{T},TROP,Abnormal,HIGH SENSITIVITY TROPONIN,SEE COMMENT,58,ng/L,Abnormal,0,14",
    f"99000999,{T},BMP,,POTASSIUM,4.0,4.0,mmol/L,Normal,3.5,5.1",
    "99000304,soon,2205-01-01T01:00:00Z,X,,CONTROL A,3.3,3.3,au,Very High,1,2",
    "99000304,2205-01-01T00:10:00Z,2205-01-01T01:00:00Z,BMP,,CALCIUM,>10,10,mg/dL,,8.6,10.2",
]  # fmt: skip


def write(folder, labs=LABS, visits=VISITS, splits=True):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "visits.csv").write_text(visits)
    (folder / "labs.csv").write_text("\n".join([HEADER, *labs]) + "\n")
    (folder / "waveform_summary.csv").write_text(
        "CSN,Type,Segments,Duration\n99000101,II,2,1200.5\n99000101,Pleth,9,100\n99000102,II,1,60\n99000203,II,0,0\n"
    )
    if splits:
        for kind in ("random", "chrono"):
            (folder / f"split_{kind}_train.csv").write_text("99000101\n99000102\n")
            (folder / f"split_{kind}_val.csv").write_text("99000203\n")
            (folder / f"split_{kind}_test.csv").write_text("99000304\n")
    return folder


def labels(folder, counts=None):
    batches = list(mc_med.labels(str(folder), counts))
    assert all(b.schema == LABELS for b in batches)
    return pa.Table.from_batches(batches).to_pylist()


@pytest.fixture
def rows(tmp_path):
    return labels(write(tmp_path / "mc-med"))


def test_one_row_per_line_and_every_oddity_counted(tmp_path):
    counts = Counts()
    assert len(labels(write(tmp_path), counts)) == len(LABS)
    assert counts == {
        ("categorical", "SARS-COV-2 RNA"): 1,
        ("sentinel", "SODIUM"): 1,
        ("unknown_encounter", "POTASSIUM"): 1,
        ("bad_time", "CONTROL A"): 1,
        ("unknown_flag", "Very High"): 1,
        ("undirected_flag", ""): 1,  # calcium within its range, yet "Abnormal"
    }


def test_both_releases_and_gzipped_tables_are_read_alike(tmp_path):
    root = labels(write(tmp_path / "1.0.0"))
    inner = labels(write(tmp_path / "1.0.1" / "data").parent)
    packed = write(tmp_path / "gz")
    for name in ("labs.csv", "visits.csv", "split_random_val.csv"):
        (packed / f"{name}.gz").write_bytes(gzip.compress((packed / name).read_bytes()))
        (packed / name).unlink()
    assert root == inner == labels(packed)
    assert mc_med.split(str(packed), "random")["99000203"] == "val"


def test_the_patient_is_found_through_visits_alone(rows):
    assert [r["patient_id"] for r in rows[:4]] == ["M1", "M1", "M1", "M2"]
    stranger = rows[9]
    assert (stranger["encounter_id"], stranger["patient_id"]) == ("99000999", None)
    assert (stranger["reason"], stranger["value"]) == ("unknown_encounter", 4.0)


def test_dates_beyond_2262_are_read(rows):
    assert rows[1]["order_time"] == datetime(2263, 6, 1, 10, 5, 0, 250000, tzinfo=UTC)
    assert rows[3]["result_time"] == datetime(2295, 7, 4, 9, tzinfo=UTC)
    assert all(r["chart_time"] is None and r["store_time"] is None for r in rows)


def test_a_time_that_cannot_be_read_leaves_the_rest_of_the_row(rows):
    row = rows[10]
    assert (row["order_time"], row["result_time"]) == (None, datetime(2205, 1, 1, 1, tzinfo=UTC))
    assert (row["reason"], row["value"]) == ("bad_time", 3.3)


def test_censored_results(rows):
    assert [(r["value"], r["censored"], r["flag"]) for r in rows[1:3]] == [(10.0, ">", "high"), (2.0, "<", "low")]
    # the value is a bare number there, the result beside it says that it is a bound
    assert (rows[11]["value"], rows[11]["censored"]) == (10.0, ">")


def test_thousands_commas_and_units(rows):
    wbc = rows[3]
    assert (wbc["value"], wbc["unit"], wbc["low"], wbc["high"]) == pytest.approx((16.084, "10*3/uL", 4.0, 11.0))
    calcium = rows[6]
    assert (calcium["value"], calcium["unit"]) == (pytest.approx(9.258, abs=1e-3), "mg/dL")


def test_a_categorical_result(rows):
    assert (rows[4]["value"], rows[4]["reason"], rows[4]["flag"]) == (None, "categorical", "normal")
    assert rows[4]["analyte"] == "sars_cov_2_rna"
    # categorical result, numeric value
    assert (rows[8]["value"], rows[8]["flag"], rows[8]["reason"]) == (58.0, "high", None)


def test_a_range_of_zero_to_zero_is_none(rows):
    assert (rows[5]["low"], rows[5]["high"], rows[5]["value"]) == (None, None, 4.4)
    assert (rows[8]["low"], rows[8]["high"]) == (0.0, 14.0)


def test_one_analyte_under_two_names(rows):
    assert rows[0]["analyte"] == rows[5]["analyte"] == "potassium"
    assert rows[5]["component"] == "POC:POTASSIUM, ISTAT"


def test_a_sentinel_is_no_value(rows):
    assert (rows[7]["value"], rows[7]["reason"], rows[7]["flag"]) == (None, "sentinel", "normal")


def test_a_component_without_an_entry_works_under_its_own_name_and_range(rows):
    row = rows[10]
    assert (row["analyte"], row["unit"], row["low"], row["high"], row["flag"]) == ("control_a", "au", 1.0, 2.0, None)


def test_encounters_with_the_official_splits(tmp_path):
    batches = list(mc_med.encounters(str(write(tmp_path))))
    assert all(b.schema == ENCOUNTERS for b in batches)
    rows = pa.Table.from_batches(batches).to_pylist()
    assert [r["encounter_id"] for r in rows] == ["99000101", "99000102", "99000203", "99000304"]
    assert [r["patient_id"] for r in rows] == ["M1", "M1", "M2", "M3"]
    assert [r["split_random"] for r in rows] == [r["split_chrono"] for r in rows] == ["train", "train", "val", "test"]
    assert [(r["age"], r["sex"]) for r in rows] == [(53, "F"), (54, "F"), (90, "M"), (None, None)]
    assert rows[1]["start_time"] == datetime(2263, 6, 1, 10, 0, 0, 500000, tzinfo=UTC)
    assert rows[2]["end_time"] is None
    assert (rows[1]["acuity"], rows[1]["disposition"], rows[1]["race"]) == ("2-Emergent", "ICU", "White")


def test_without_split_files_the_splits_are_null(tmp_path):
    (batch,) = mc_med.encounters(str(write(tmp_path, splits=False)))
    assert batch["split_random"].null_count == batch["split_chrono"].null_count == len(batch)


def test_a_visit_in_two_parts_of_a_split_is_an_error(tmp_path):
    write(tmp_path)
    (tmp_path / "split_chrono_test.csv").write_text("99000304\n99000101\n")
    with pytest.raises(InputError, match=r"split_chrono_test\.csv: visit 2 is also in split_chrono_train\.csv"):
        list(mc_med.encounters(str(tmp_path)))


def test_a_visit_of_two_patients_is_an_error(tmp_path):
    twice = VISITS + "M9,99000101,1,1,40,F,,,,,2261-12-31T23:50:00Z,\n"
    with pytest.raises(InputError, match=r"visits\.csv: 1 visits \(CSN\) stand for two patients"):
        labels(write(tmp_path, visits=twice))


def test_identifiers_with_decimals_still_join(tmp_path):
    rows = labels(write(tmp_path, labs=[LABS[0].replace("99000101", "99000101.0")]))
    assert (rows[0]["encounter_id"], rows[0]["patient_id"]) == ("99000101", "M1")


def test_malformed_lines_come_out_as_rows_with_a_reason(tmp_path):
    counts = Counts()
    rows = labels(write(tmp_path, labs=[LABS[0], "99000101,2261-12-31T23:55:00Z", *LABS[1:3]]), counts)
    assert [r["reason"] for r in rows] == [None, None, None, "malformed_row"]
    assert counts["malformed_row", "labs.csv"] == 1


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(InputError, match=r"no visits\.csv here"):
        labels(tmp_path)
    write(tmp_path)
    (tmp_path / "labs.csv").write_text("CSN,Order_time,Result_time,Component_nam,Component_value\n")
    with pytest.raises(InputError, match=r"labs\.csv: no column Component_name; rename column Component_nam"):
        labels(tmp_path)


def test_the_summary_claims_records_that_have_no_files(tmp_path):
    claimed = mc_med.summary(str(write(tmp_path)), "II")
    assert claimed == {"99000101": 2, "99000102": 1, "99000203": 0}
    assert mc_med.without_files(claimed, found=["99000101"]) == ["99000102"]
    assert mc_med.summary(str(tmp_path), lead="Pleth") == {"99000101": 9}

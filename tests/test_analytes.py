"""The table of analytes: consistent in itself, and against real names, items and units."""

import csv
from collections import Counter

import pytest

from anyecg_ray.analytes import ANALYTES, BY_KEY, DATASETS, Indicator, conversion, convert, find, slug
from anyecg_ray.analytes import _names as names
from anyecg_ray.analytes import _spelt as spelt
from anyecg_ray.labvalue import parse
from anyecg_ray.units import SPELLINGS, ucum

FACTS_ITEMS = {
    50971: "potassium", 50983: "sodium", 50902: "chloride", 50882: "bicarbonate", 50868: "anion_gap", 50931: "glucose",
    50912: "creatinine", 51006: "urea_nitrogen", 50893: "calcium", 50960: "magnesium", 50970: "phosphate",
    51222: "hemoglobin", 51221: "hematocrit", 51301: "wbc", 51265: "platelets", 51279: "rbc", 51250: "mcv",
    51248: "mch", 51249: "mchc", 51277: "rdw", 52172: "rdw_sd", 51237: "inr", 51274: "prothrombin_time",
    51275: "aptt", 50813: "lactate", 50861: "alt", 50878: "ast", 50863: "alp", 50885: "bilirubin_total",
    50862: "albumin", 50910: "ck", 50911: "ck_mb", 51003: "troponin_t", 50963: "nt_probnp", 50820: "ph",
    50818: "pco2", 50821: "po2", 50802: "base_excess", 50804: "total_co2_blood", 51146: "basophils_percent",
    51200: "eosinophils_percent", 51244: "lymphocytes_percent", 51254: "monocytes_percent",
    51256: "neutrophils_percent", 51002: "troponin_i", 52642: "troponin_i", 52610: "potassium", 52623: "sodium",
}  # fmt: skip


def test_the_table_is_consistent():
    assert len(ANALYTES) == len(BY_KEY) >= 50
    assert sum(a.source is not None for a in ANALYTES) >= 50
    for a in ANALYTES:
        assert a.key == slug(a.key.removesuffix("_other")).removesuffix("_other"), a.key
        assert not a.key.endswith(("_low", "_high", "_value", "_other")), a.key
        assert a.unit == "1" or ucum(a.unit) == a.unit or a.unit in SPELLINGS, a.unit
        assert a.unit not in a.also
        assert set(a.also) <= set(SPELLINGS), a.key
        assert (a.source is None) == (a.range == (None, None)), a.key
        for low, high in (a.range, a.plausible, *a.by_sex.values()):
            assert low is None or high is None or low < high, a.key
        for limit in a.range:
            assert limit is None or (a.plausible[0] or 0) <= limit <= (a.plausible[1] or limit), a.key
        if a.by_sex:
            assert set(a.by_sex) == {"F", "M"}, a.key


def test_every_loinc_code_carries_its_check_digit():
    codes = [a.loinc for a in ANALYTES if a.loinc]
    assert len(set(codes)) == len(codes) > 100
    for code in codes:
        digits, check = code.split("-")
        doubled = [int(d) * (2 if i % 2 == 0 else 1) for i, d in enumerate(reversed(digits))]
        assert sum(d // 10 + d % 10 for d in doubled) * 9 % 10 == int(check), code


@pytest.mark.parametrize("dataset", [d for d in DATASETS if d != "wfdb"])
def test_no_name_means_two_analytes(dataset):
    seen = Counter(spelt(name) for a in ANALYTES for name in dict.fromkeys(names(dataset, a)))
    distinct = {(spelt(n), a.key) for a in ANALYTES for n in names(dataset, a)}
    assert len({n for n, _ in distinct}) == len(distinct), [n for n, k in seen.items() if k > 1]


def test_items_of_mimic_are_blood_items_that_exist(data):
    with open(data / "mimic-iv-demo-tables" / "d_labitems.csv") as file:
        items = {int(r["itemid"]): r for r in csv.DictReader(file)}
    for a in ANALYTES:
        for item in a.mimic:
            assert items[item]["fluid"] == "Blood", (a.key, items[item])
    for item, key in FACTS_ITEMS.items():
        assert find("mimic-iv-ecg", item).key == key
    assert [find("mimic-iv-ecg", i) for i in (50934, 50947, 51678, 51478)] == [None] * 4  # 51478: glucose in urine


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("POTASSIUM", "potassium"),
        ("POC:POTASSIUM, ISTAT", "potassium"),
        ("HEMOGLOBIN (HGB)", "hemoglobin"),
        ("BLOOD UREA NITROGEN (BUN)", "urea_nitrogen"),
        ("EGFR REFIT WITHOUT RACE (2021)", "egfr"),
        ("HIGH SENSITIVITY TROPONIN", "troponin_hs"),
        ("BNP, NT-PRO", "nt_probnp"),
        (" bilirubin,  total ", "bilirubin_total"),
        ("NEUTROPHIL, ABSOLUTE (AUTO DIFF)", "neutrophils"),
        ("PCO2.VENOUS", "pco2_venous"),
    ],
)
def test_one_analyte_goes_under_several_names(name, key):
    assert find("mc_med", name).key == key
    assert find("wfdb", name).key == key


def test_a_users_table_may_name_an_analyte_by_key_name_or_loinc():
    assert [find("wfdb", n).key for n in ("potassium", "Potassium", "2823-3")] == ["potassium"] * 3


@pytest.mark.parametrize("name", ["GLUCOSE, URINE (UA)", "SARS-COV-2 RNA", "CONTROL A", ""])
def test_what_is_not_in_the_table_is_not_found(name):
    assert find("mc-med", name) is None


def test_an_unknown_dataset_is_an_error():
    with pytest.raises(ValueError, match="unknown dataset 'mcmed'"):
        find("mcmed", "POTASSIUM")


def test_a_component_without_a_row_keeps_its_own_name():
    assert slug("CONTROL A") == "control_a"
    assert slug("IMMATURE CELLS %, TOTAL") == "immature_cells_percent_total"
    assert slug(" - ") == "unnamed"
    assert slug("Lactate") == "lactate_other"  # an item that is not in the table must not pass for the analyte


@pytest.mark.parametrize(
    ("key", "value", "unit", "expected"),
    [
        ("potassium", 4.2, "mEq/L", 4.2),
        ("calcium", 2.5, "mmol/L", 10.02),
        ("calcium", 5.0, "MEQ/L", 10.02),
        ("glucose", 5.5, "mmol/L", 99.09),
        ("creatinine", 88.42, "µmol/L", 1.0),
        ("creatinine", 88.42, "umol/L", 1.0),
        ("urea_nitrogen", 5.0, "mmol/L", 14.0),
        ("bilirubin_total", 17.104, "umol/L", 1.0),
        ("magnesium", 1.4, "meq/L", 1.70),
        ("phosphate", 1.0, "mmol/L", 3.097),
        ("uric_acid", 357, "umol/L", 6.0),
        ("calcium_ionized", 4.6, "mg/dL", 1.148),
        ("hemoglobin", 140, "g/L", 14.0),
        ("hemoglobin", 8.7, "mmol/L", 14.02),
        ("hematocrit", 0.42, "L/L", 42.0),
        ("platelets", 250, "10*9/L", 250.0),
        ("platelets", 250, "x10E3/uL", 250.0),
        ("wbc", 7500, "/uL", 7.5),
        ("troponin_i", 40, "ng/L", 0.04),
        ("troponin_hs", 0.014, "ng/mL", 14.0),
        ("crp", 1.2, "mg/dL", 12.0),
        ("d_dimer", 0.5, "ug/mL FEU", 500.0),
        ("lactate", 18.0, "mg/dL", 2.0),
        ("pco2", 5.3, "kPa", 39.75),
        ("hba1c", 48, "mmol/mol", 6.54),
        ("cholesterol_total", 5.0, "mmol/L", 193.4),
        ("inr", 1.1, "ratio", 1.1),
        ("egfr", 83, "mL/min/1.73 m2", 83),
        ("potassium", 4.2, "", 4.2),
        ("potassium", 4.2, None, 4.2),
    ],
)
def test_units_are_converted_for_the_analyte(key, value, unit, expected):
    assert convert(BY_KEY[key], value, unit) == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize(
    ("key", "unit"), [("potassium", "mg/dL"), ("glucose", "furlongs"), ("d_dimer", "ng/mL DDU"), ("wbc", "10")]
)
def test_a_unit_that_the_analyte_does_not_come_in_converts_to_nothing(key, unit):
    assert convert(BY_KEY[key], 1.0, unit) is None


def test_ranges_depend_on_sex_where_they_differ():
    hemoglobin = BY_KEY["hemoglobin"]
    assert (hemoglobin.limits("F"), hemoglobin.limits("M"), hemoglobin.limits()) == ((12, 16), (14, 18), (12, 18))
    assert BY_KEY["potassium"].limits("F") == (3.5, 5.0)


def test_indicator_keys():
    assert Indicator("potassium", "high").key == "potassium_high"
    assert Indicator("dx_mi", "present").key == "dx_mi"
    for key in ("potassium_high", "calcium_low", "urea_nitrogen_value", "dx_mi"):
        assert Indicator.parse(key).key == key
    assert Indicator.parse("anion_gap_high") == Indicator("anion_gap", "high")


def test_real_results_are_found_parsed_and_converted(data):
    """All 29,961 results of the eICU demo: what is not mapped is urine, drugs and ventilator settings."""
    seen: Counter[str] = Counter()
    unmapped, implausible = set(), []
    with open(data / "eicu-demo-lab" / "lab.csv") as file:
        for row in csv.DictReader(file):
            seen["all"] += 1
            result = parse(row["labresulttext"])
            seen["number"] += result.value is not None
            seen["censored"] += result.censored is not None
            analyte = find("eicu", row["labname"])
            if analyte is None:
                unmapped.add(row["labname"])
                continue
            seen["mapped"] += 1
            rule = conversion(analyte, row["labmeasurenameinterface"])
            if rule is None or result.value is None:
                continue
            seen["converted"] += 1
            value, (low, high) = rule[0] * result.value + rule[1], analyte.plausible
            if (low is not None and value < low) or (high is not None and value > high):
                implausible.append((analyte.key, value))
    assert seen == {"all": 29961, "number": 29961, "censored": 98, "mapped": 28870, "converted": 28835}
    assert {"potassium", "sodium", "Hgb", "creatinine"}.isdisjoint(unmapped)
    assert {"FiO2", "PEEP", "urinary sodium", "Phenytoin"} <= unmapped
    assert not implausible

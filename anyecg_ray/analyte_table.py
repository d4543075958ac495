"""The analytes, panel by panel. A literal, to be read and corrected.

LOINC codes agree with MIT-LCP's curated map of MIMIC-IV items, save where that names another specimen or
method than this row (lactate in plasma, INR of any device, total 25-hydroxyvitamin D, …). Ranges are fallbacks for
draws that came without their own and without a flag: laboratories differ, so the draw's own always goes first.
The MC-MED names POTASSIUM, SODIUM, CALCIUM, GLUCOSE, ALBUMIN, CO2, CREATININE, ANION GAP, INR, the CBC and
differential names, `BLOOD UREA NITROGEN (BUN)`, `EGFR REFIT WITHOUT RACE (2021)`, `HIGH SENSITIVITY TROPONIN`,
`BNP, NT-PRO` and the POC ones are seen in public code that reads MC-MED; the others follow the same
laboratory's naming and are harmless where wrong, because a name that matches nothing works under its own key.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

Range = tuple[float | None, float | None]
"""(low, high), both inclusive, in the analyte's unit; None where there is no such limit."""


@dataclass(frozen=True, slots=True)
class Analyte:
    """One row of the table."""

    key: str
    """Snake case; never ends like an indicator's direction."""
    name: str
    loinc: str | None
    """None where we are not certain of the code."""
    unit: str
    """UCUM; "1" for a pure number."""
    range: Range
    """Adults of unknown sex; where the sexes differ, the outer limits of both."""
    source: str | None
    """Whence the range comes; None where no range is given."""
    plausible: Range = (0.0, None)
    """Beyond these the number is an error of unit or entry, not a patient."""
    also: Mapping[str, float | tuple[float, float]] = field(default_factory=dict)
    """UCUM units accepted besides: value in `unit` = factor × value, or factor × value + offset."""
    by_sex: Mapping[str, Range] = field(default_factory=dict)
    """Ranges of F and M where they differ."""
    mc_med: tuple[str, ...] = ()
    """MC-MED's Component_name."""
    mimic: tuple[int, ...] = ()
    """MIMIC-IV hosp itemid, blood only."""
    eicu: tuple[str, ...] = ()
    """eICU's labname."""

    def limits(self, sex: str | None = None) -> Range:
        """The adult reference range, for F or M where it depends on that."""
        return self.by_sex.get(sex or "", self.range)


ABIM = "American Board of Internal Medicine, Laboratory Test Reference Ranges, January 2026"
MGH = "Kratz et al., Laboratory reference values, N Engl J Med 2004;351:1548"
KDIGO = "KDIGO 2024 CKD guideline"
ADA = "American Diabetes Association, Standards of Care"
ATP = "NCEP ATP III, desirable or not at risk"
ESC = "ESC 2021 heart failure guideline, non-acute onset"
MAYO = "Mayo Clinic Laboratories test catalogue"

NO_RANGE: Range = (None, None)
PER_UL = {"10*9/L": 1.0, "/uL": 0.001}
PER_NG_ML = {"ug/L": 1.0, "ng/L": 0.001, "pg/mL": 0.001}
MASS_G = {"g/L": 0.1, "mg/dL": 0.001}
MASS_MG = {"g/L": 100.0, "mg/L": 0.1}
LIPID = {"mmol/L": 38.67, "mg/L": 0.1}
KPA = {"kPa": 7.50062}
FE = {"umol/L": 5.585, "ug/L": 0.1}

ANALYTES: tuple[Analyte, ...] = (
    # electrolytes
    Analyte("potassium", "Potassium", "2823-3", "mmol/L", (3.5, 5.0), ABIM, (0.5, 20), {"meq/L": 1.0},
            mc_med=("POTASSIUM", "POC:POTASSIUM, ISTAT", "POTASSIUM.WHOLE BLD", "POTASSIUM, WHOLE BLD"),
            mimic=(50971, 52610, 50822, 52452), eicu=("potassium",)),
    Analyte("sodium", "Sodium", "2951-2", "mmol/L", (136, 145), ABIM, (80, 220), {"meq/L": 1.0},
            mc_med=("SODIUM", "POC:SODIUM, ISTAT", "SODIUM.WHOLE BLD", "SODIUM, WHOLE BLD"),
            mimic=(50983, 52623, 50824, 52455), eicu=("sodium",)),
    Analyte("chloride", "Chloride", "2075-0", "mmol/L", (98, 106), ABIM, (50, 180), {"meq/L": 1.0},
            mc_med=("CHLORIDE", "POC:CHLORIDE, ISTAT", "CHLORIDE.WHOLE BLD", "CHLORIDE, WHOLE BLD"),
            mimic=(50902, 52535, 50806, 52434), eicu=("chloride",)),
    Analyte("bicarbonate", "Bicarbonate (total CO2), serum", "1963-8", "mmol/L", (23, 30), ABIM, (1, 80),
            {"meq/L": 1.0}, mc_med=("CO2", "CO2, TOTAL"), mimic=(50882,), eicu=("bicarbonate",)),
    Analyte("anion_gap", "Anion gap", "33037-3", "mmol/L", (7, 13), ABIM, (-20, 80), {"meq/L": 1.0},
            mc_med=("ANION GAP", "POC:ANION GAP, ISTAT"), mimic=(50868, 52500), eicu=("anion gap",)),
    Analyte("calcium", "Calcium, total", "17861-6", "mg/dL", (8.6, 10.2), ABIM, (3, 25),
            {"mmol/L": 4.008, "meq/L": 2.004, "mg/L": 0.1}, mc_med=("CALCIUM", "CALCIUM, TOTAL"),
            mimic=(50893, 52034, 52035), eicu=("calcium",)),
    Analyte("calcium_corrected", "Calcium, corrected for albumin", None, "mg/dL", (8.6, 10.2), ABIM, (3, 25),
            {"mmol/L": 4.008}, mc_med=("CORRECTED CALCIUM",)),
    Analyte("calcium_ionized", "Calcium, ionised", "1994-3", "mmol/L", (1.14, 1.30), MGH, (0.2, 3),
            {"mg/dL": 0.2495, "meq/L": 0.5},
            mc_med=("CALCIUM, IONIZED", "IONIZED CALCIUM", "CALCIUM,ION, ISTAT", "POC:CALCIUM IONIZED, ISTAT",
                    "POC:IONIZED CALCIUM, ISTAT", "CALCIUM.IONIZED"),
            mimic=(50808, 51624), eicu=("ionized calcium",)),
    Analyte("magnesium", "Magnesium", "19123-9", "mg/dL", (1.6, 2.6), ABIM, (0.2, 20),
            {"mmol/L": 2.4305, "meq/L": 1.2153}, mc_med=("MAGNESIUM",), mimic=(50960,), eicu=("magnesium",)),
    Analyte("phosphate", "Phosphate (as phosphorus)", "2777-1", "mg/dL", (3.0, 4.5), ABIM, (0.1, 30),
            {"mmol/L": 3.0974}, mc_med=("PHOSPHORUS", "PHOSPHATE"), mimic=(50970,), eicu=("phosphate",)),
    # kidney
    Analyte("creatinine", "Creatinine", "2160-0", "mg/dL", (0.5, 1.3), ABIM, (0.05, 60),
            {"umol/L": 1 / 88.42, "mmol/L": 11.31, "mg/L": 0.1}, {"F": (0.5, 1.1), "M": (0.7, 1.3)},
            mc_med=("CREATININE", "POC:CREATININE, ISTAT", "CREATININE, WHOLE BLD"),
            mimic=(50912, 52546, 52024), eicu=("creatinine",)),
    Analyte("urea_nitrogen", "Urea nitrogen (BUN)", "3094-0", "mg/dL", (8, 20), ABIM, (0.5, 400),
            {"mmol/L": 2.801},
            mc_med=("BLOOD UREA NITROGEN (BUN)", "BUN", "UREA NITROGEN", "POC:BUN, ISTAT"),
            mimic=(51006, 52647), eicu=("BUN",)),
    Analyte("egfr", "Glomerular filtration rate, estimated (CKD-EPI 2021)", "98979-8", "mL/min/{1.73_m2}",
            (60, None), KDIGO, (0, 300), {"mL/min": 1.0},
            mc_med=("EGFR REFIT WITHOUT RACE (2021)", "EGFR (2021)", "EGFR")),
    Analyte("egfr_race_adjusted", "Glomerular filtration rate, estimated with a race term", None, "mL/min/{1.73_m2}",
            (60, None), KDIGO, (0, 300), {"mL/min": 1.0},
            mc_med=("EGFR FOR AFRICAN AMERICAN", "EGFR FOR NON-AFRICAN AMERICAN")),
    Analyte("egfr_mdrd", "Glomerular filtration rate, estimated (MDRD)", "77147-7", "mL/min/{1.73_m2}",
            (60, None), KDIGO, (0, 300), {"mL/min": 1.0}, mimic=(50920, 52026, 51770)),
    Analyte("cystatin_c", "Cystatin C", "33863-2", "mg/L", NO_RANGE, None, (0.1, 20), {"mg/dL": 10.0},
            mc_med=("CYSTATIN C",)),
    Analyte("uric_acid", "Uric acid", "3084-1", "mg/dL", (3.0, 7.0), ABIM, (0.1, 60),
            {"umol/L": 1 / 59.48, "mmol/L": 16.81}, mc_med=("URIC ACID",), mimic=(51007,), eicu=("uric acid",)),
    Analyte("osmolality", "Osmolality, serum", "2692-2", "mosm/kg", (275, 295), ABIM, (150, 600),
            {"mosm/L": 1.0, "mmol/L": 1.0}, mc_med=("OSMOLALITY", "OSMOLALITY, SERUM"), mimic=(50964, 52031),
            eicu=("serum osmolality",)),
    # glucose and metabolism; the glucose range is a fasting one, and most draws are not
    Analyte("glucose", "Glucose", "2345-7", "mg/dL", (70, 99), ABIM, (1, 3000), {"mmol/L": 18.016, "mg/L": 0.1},
            mc_med=("GLUCOSE", "POC:GLUCOSE, ISTAT", "GLUCOSE, WHOLE BLD", "GLUCOSE.WHOLE BLD"),
            mimic=(50931, 52569, 50809, 52027), eicu=("glucose",)),
    Analyte("glucose_bedside", "Glucose, glucometer", "41653-7", "mg/dL", (70, 99), ABIM, (1, 3000),
            {"mmol/L": 18.016}, mc_med=("GLUCOSE BY METER", "POC:GLUCOSE BY METER"), eicu=("bedside glucose",)),
    Analyte("hba1c", "Hemoglobin A1c", "4548-4", "%", (None, 5.6), ADA, (2, 25), {"mmol/mol": (0.09148, 2.152)},
            mc_med=("HEMOGLOBIN A1C",), mimic=(50852,)),
    Analyte("beta_hydroxybutyrate", "Beta-hydroxybutyrate", None, "mmol/L", (None, 0.4), MAYO, (0, 40),
            {"mg/dL": 0.0961}, mc_med=("BETA-HYDROXYBUTYRATE", "BETA HYDROXYBUTYRATE"), mimic=(51567,),
            eicu=("serum ketones",)),
    Analyte("lactate", "Lactate", "2524-7", "mmol/L", (0.7, 2.1), ABIM, (0, 60), {"mg/dL": 0.111, "meq/L": 1.0},
            mc_med=("LACTATE", "LACTIC ACID", "POC:LACTATE, ISTAT", "LACTATE, WHOLE BLD", "LACTATE.WHOLE BLD"),
            mimic=(50813, 52442, 53154), eicu=("lactate",)),
    Analyte("ammonia", "Ammonia", "16362-6", "umol/L", (23.5, 41.1), ABIM, (0, 3000), {"ug/dL": 0.5872},
            mc_med=("AMMONIA",), mimic=(50866,), eicu=("ammonia",)),
    # liver and pancreas
    Analyte("albumin", "Albumin", "1751-7", "g/dL", (3.5, 5.5), ABIM, (0.3, 10), MASS_G,
            mc_med=("ALBUMIN",), mimic=(50862, 53085), eicu=("albumin",)),
    Analyte("protein_total", "Protein, total", "2885-2", "g/dL", (5.5, 9.0), ABIM, (1, 20), MASS_G,
            mc_med=("PROTEIN, TOTAL", "TOTAL PROTEIN"), mimic=(50976, 53096), eicu=("total protein",)),
    Analyte("globulin", "Globulin", "2336-6", "g/dL", (2.3, 3.5), MGH, (0.1, 15), MASS_G,
            mc_med=("GLOBULIN",), mimic=(50930,)),
    Analyte("prealbumin", "Prealbumin (transthyretin)", "14338-8", "mg/dL", NO_RANGE, None, (1, 100), MASS_MG,
            mc_med=("PREALBUMIN",), eicu=("prealbumin",)),
    Analyte("bilirubin_total", "Bilirubin, total", "1975-2", "mg/dL", (0.3, 1.0), ABIM, (0, 100),
            {"umol/L": 1 / 17.104}, mc_med=("BILIRUBIN, TOTAL", "TOTAL BILIRUBIN"), mimic=(50885, 53089),
            eicu=("total bilirubin",)),
    Analyte("bilirubin_direct", "Bilirubin, direct", "1968-7", "mg/dL", (0.1, 0.3), ABIM, (0, 80),
            {"umol/L": 1 / 17.104}, mc_med=("BILIRUBIN, DIRECT", "DIRECT BILIRUBIN"), mimic=(50883,),
            eicu=("direct bilirubin",)),
    Analyte("bilirubin_indirect", "Bilirubin, indirect", "1971-1", "mg/dL", NO_RANGE, None, (0, 80),
            {"umol/L": 1 / 17.104}, mc_med=("BILIRUBIN, INDIRECT",), mimic=(50884,)),
    Analyte("alt", "Alanine aminotransferase (ALT)", "1742-6", "U/L", (10, 40), ABIM, (0, 50000),
            mc_med=("ALT (SGPT)", "ALT"), mimic=(50861, 53084), eicu=("ALT (SGPT)",)),
    Analyte("ast", "Aspartate aminotransferase (AST)", "1920-8", "U/L", (10, 40), ABIM, (0, 60000),
            mc_med=("AST (SGOT)", "AST"), mimic=(50878, 53088), eicu=("AST (SGOT)",)),
    Analyte("alp", "Alkaline phosphatase", "6768-6", "U/L", (30, 120), ABIM, (0, 20000),
            mc_med=("ALKALINE PHOSPHATASE",), mimic=(50863, 53086), eicu=("alkaline phos.",)),
    Analyte("ggt", "Gamma-glutamyl transferase", "2324-2", "U/L", (8, 50), ABIM, (0, 20000),
            by_sex={"F": (8, 40), "M": (9, 50)}, mc_med=("GGT", "GAMMA GLUTAMYL TRANSFERASE"), mimic=(50927, 53093)),
    Analyte("ldh", "Lactate dehydrogenase", "2532-0", "U/L", (80, 225), ABIM, (0, 100000),
            mc_med=("LDH", "LACTATE DEHYDROGENASE (LDH)", "LDH, TOTAL", "LD (LDH)"), mimic=(50954,), eicu=("LDH",)),
    Analyte("lipase", "Lipase", "3040-3", "U/L", (10, 140), ABIM, (0, 50000),
            mc_med=("LIPASE",), mimic=(50956,), eicu=("lipase",)),
    Analyte("amylase", "Amylase", "1798-8", "U/L", (25, 125), ABIM, (0, 50000),
            mc_med=("AMYLASE",), mimic=(50867, 53087), eicu=("amylase",)),
    # heart and muscle
    Analyte("troponin_hs", "Troponin, high sensitivity (I or T not told)", None, "ng/L", NO_RANGE, None, (0, None),
            {"pg/mL": 1.0, "ng/mL": 1000.0, "ug/L": 1000.0},
            mc_med=("HIGH SENSITIVITY TROPONIN", "TROPONIN, HIGH SENSITIVITY")),
    Analyte("troponin_i", "Troponin I", "10839-9", "ng/mL", (None, 0.04), ABIM, (0, None), PER_NG_ML,
            mc_med=("TROPONIN I", "POC:TROPONIN I, ISTAT"), mimic=(51002, 52642), eicu=("troponin - I",)),
    Analyte("troponin_t", "Troponin T", "6598-7", "ng/mL", (None, 0.01), ABIM, (0, None), PER_NG_ML,
            mc_med=("TROPONIN T",), mimic=(51003,), eicu=("troponin - T",)),
    Analyte("nt_probnp", "NT-proBNP", "33762-6", "pg/mL", (None, 125), ESC, (0, None),
            {"ng/L": 1.0, "pmol/L": 8.457, "ng/mL": 1000.0},
            mc_med=("BNP, NT-PRO", "NT-PROBNP", "NT-PRO BNP", "PROBNP"), mimic=(50963,)),
    Analyte("bnp", "BNP", "30934-4", "pg/mL", (None, 100), ABIM, (0, None),
            {"ng/L": 1.0, "pmol/L": 3.46}, mc_med=("BNP", "B-TYPE NATRIURETIC PEPTIDE"), eicu=("BNP",)),
    Analyte("ck", "Creatine kinase", "2157-6", "U/L", (30, 170), ABIM, (0, 1000000),
            by_sex={"F": (30, 135), "M": (55, 170)},
            mc_med=("CK", "CREATINE KINASE", "CK, TOTAL", "CREATINE KINASE (CK)"), mimic=(50910,), eicu=("CPK",)),
    Analyte("ck_mb", "Creatine kinase MB", "13969-1", "ng/mL", (None, 6.9), MGH, (0, 10000), {"ug/L": 1.0},
            mc_med=("CK-MB", "CKMB"), mimic=(50911,), eicu=("CPK-MB",)),
    Analyte("ck_mb_index", "Creatine kinase MB, relative index", "49136-5", "%", NO_RANGE, None, (0, 100),
            mimic=(50908,), eicu=("CPK-MB INDEX",)),
    Analyte("myoglobin", "Myoglobin", "2639-3", "ng/mL", NO_RANGE, None, (0, None), {"ug/L": 1.0},
            mc_med=("MYOGLOBIN",), mimic=(51695,), eicu=("myoglobin",)),
    # blood count
    Analyte("hemoglobin", "Hemoglobin", "718-7", "g/dL", (12, 18), ABIM, (0.5, 30), {"g/L": 0.1, "mmol/L": 1.6114},
            {"F": (12, 16), "M": (14, 18)},
            mc_med=("HEMOGLOBIN (HGB)", "HEMOGLOBIN", "HGB", "POC:HGB(CALC), ISTAT", "POC:HEMOGLOBIN, ISTAT"),
            mimic=(51222, 50811, 51640), eicu=("Hgb",)),
    Analyte("hematocrit", "Hematocrit", "4544-3", "%", (37, 50), ABIM, (2, 85), {"L/L": 100.0},
            {"F": (37, 47), "M": (42, 50)},
            mc_med=("HEMATOCRIT (HCT)", "HEMATOCRIT", "HCT", "POC:HCT, ISTAT"),
            mimic=(51221, 50810, 51638, 51639, 52028), eicu=("Hct",)),
    Analyte("rbc", "Red blood cells", "789-8", "10*6/uL", (4.2, 5.9), ABIM, (0.1, 12), {"10*12/L": 1.0},
            mc_med=("RED BLOOD CELLS (RBC)", "RBC"), mimic=(51279,), eicu=("RBC",)),
    Analyte("mcv", "Mean corpuscular volume", "787-2", "fL", (80, 98), ABIM, (30, 200),
            mc_med=("MEAN CORPUSCULAR VOLUME (MCV)", "MCV"), mimic=(51250, 51691), eicu=("MCV",)),
    Analyte("mch", "Mean corpuscular hemoglobin", "785-6", "pg", (28, 32), ABIM, (5, 80),
            mc_med=("MEAN CORPUSCULAR HEMOGLOBIN (MCH)", "MCH"), mimic=(51248,), eicu=("MCH",)),
    # printed as a percentage by some machines: grams in 100 mL of cells
    Analyte("mchc", "Mean corpuscular hemoglobin concentration", "786-4", "g/dL", (33, 36), ABIM, (10, 60),
            {"g/L": 0.1, "%": 1.0}, mc_med=("MEAN CORPUSCULAR HEMOGLOBIN CONCENTRATION (MCHC)", "MCHC"),
            mimic=(51249,), eicu=("MCHC",)),
    Analyte("rdw", "Red cell distribution width", "788-0", "%", (9.0, 14.5), ABIM, (5, 60),
            mc_med=("RED CELL DISTRIBUTION WIDTH (RDW)", "RDW"), mimic=(51277,), eicu=("RDW",)),
    Analyte("rdw_sd", "Red cell distribution width, absolute", "21000-5", "fL", NO_RANGE, None, (10, 250),
            mc_med=("RDW-SD",), mimic=(52172,)),
    Analyte("platelets", "Platelets", "777-3", "10*3/uL", (150, 450), ABIM, (0, 10000), PER_UL,
            mc_med=("PLATELET COUNT (PLT)", "PLATELET COUNT", "PLATELETS"), mimic=(51265, 51704),
            eicu=("platelets x 1000",)),
    Analyte("mpv", "Mean platelet volume", "32623-1", "fL", (7, 9), ABIM, (3, 30),
            mc_med=("MEAN PLATELET VOLUME (MPV)", "MPV"), mimic=(52142,), eicu=("MPV",)),
    Analyte("wbc", "White blood cells", "6690-2", "10*3/uL", (4.0, 11.0), ABIM, (0, 2000), PER_UL,
            mc_med=("WHITE BLOOD CELLS (WBC)", "WBC"), mimic=(51301, 51300, 51755, 51756), eicu=("WBC x 1000",)),
    Analyte("neutrophils_percent", "Neutrophils per 100 leukocytes", "770-8", "%", (50, 70), ABIM, (0, 100),
            mc_med=("NEUTROPHIL % (AUTO DIFF)", "NEUTROPHILS % (AUTO DIFF)", "NEUTROPHIL %"), mimic=(51256,),
            eicu=("-polys",)),
    Analyte("lymphocytes_percent", "Lymphocytes per 100 leukocytes", "736-9", "%", (30, 45), ABIM, (0, 100),
            mc_med=("LYMPHOCYTE % (AUTO DIFF)", "LYMPHOCYTE %"), mimic=(51244, 51245, 51690), eicu=("-lymphs",)),
    Analyte("monocytes_percent", "Monocytes per 100 leukocytes", "5905-5", "%", (0, 6), ABIM, (0, 100),
            mc_med=("MONOCYTE % (AUTO DIFF)", "MONOCYTE %"), mimic=(51254,), eicu=("-monos",)),
    Analyte("eosinophils_percent", "Eosinophils per 100 leukocytes", "713-8", "%", (0, 3), ABIM, (0, 100),
            mc_med=("EOSINOPHIL % (AUTO DIFF)", "EOSINOPHIL %"), mimic=(51200,), eicu=("-eos",)),
    Analyte("basophils_percent", "Basophils per 100 leukocytes", "706-2", "%", (0, 1), ABIM, (0, 100),
            mc_med=("BASOPHIL % (AUTO DIFF)", "BASOPHIL %"), mimic=(51146,), eicu=("-basos",)),
    Analyte("bands_percent", "Band neutrophils per 100 leukocytes", "26508-2", "%", (0, 5), ABIM, (0, 100),
            mc_med=("BANDS % (MANUAL DIFF)", "BAND %"), mimic=(51144,), eicu=("-bands",)),
    Analyte("immature_granulocytes_percent", "Immature granulocytes per 100 leukocytes", "38518-7", "%", NO_RANGE,
            None, (0, 100), mc_med=("IMMATURE GRANULOCYTE % (AUTODIFF) WAM", "IMMATURE GRANULOCYTE %"),
            mimic=(52135,)),
    Analyte("nrbc_percent", "Nucleated red cells per 100 leukocytes", "58413-6", "%", NO_RANGE, None, (0, 5000),
            mc_med=("NRBC, PERCENT (HEMATOLOGY)",), mimic=(51257,)),
    Analyte("neutrophils", "Neutrophils", "751-8", "10*3/uL", (2.0, 8.25), ABIM, (0, 1000), PER_UL,
            mc_med=("NEUTROPHIL, ABSOLUTE (AUTO DIFF)", "NEUTROPHIL, ABSOLUTE"), mimic=(52075, 53133)),
    Analyte("lymphocytes", "Lymphocytes", "731-0", "10*3/uL", (1.2, 4.95), ABIM, (0, 1500), PER_UL,
            mc_med=("LYMPHOCYTE, ABSOLUTE (AUTO DIFF)", "LYMPHOCYTE, ABSOLUTE"), mimic=(51133, 52769, 53132)),
    Analyte("monocytes", "Monocytes", "742-7", "10*3/uL", NO_RANGE, None, (0, 500), PER_UL,
            mc_med=("MONOCYTE, ABSOLUTE (AUTO DIFF)", "MONOCYTE, ABSOLUTE"), mimic=(52074, 51253)),
    Analyte("eosinophils", "Eosinophils", "711-2", "10*3/uL", NO_RANGE, None, (0, 500), PER_UL,
            mc_med=("EOSINOPHIL, ABSOLUTE (AUTO DIFF)", "EOSINOPHIL, ABSOLUTE"), mimic=(52073, 51199)),
    Analyte("basophils", "Basophils", "704-7", "10*3/uL", NO_RANGE, None, (0, 500), PER_UL,
            mc_med=("BASOPHIL, ABSOLUTE (AUTO DIFF)", "BASOPHIL, ABSOLUTE"), mimic=(52069,)),
    Analyte("immature_granulocytes", "Immature granulocytes", "53115-2", "10*3/uL", NO_RANGE, None, (0, 500), PER_UL,
            mc_med=("IMMATURE GRANULOCYTE, ABSOLUTE (AUTO DIFF) WAM", "IMMATURE GRANULOCYTE, ABSOLUTE")),
    Analyte("nrbc", "Nucleated red cells", "771-6", "10*3/uL", NO_RANGE, None, (0, 500), PER_UL,
            mc_med=("NRBC, ABSOLUTE (HEMATOLOGY)",)),
    Analyte("reticulocytes_percent", "Reticulocytes per 100 red cells", "4679-7", "%", (0.5, 1.5), ABIM, (0, 100),
            mc_med=("RETICULOCYTE %", "RETICULOCYTE COUNT"), mimic=(51283, 51284), eicu=("reticulocyte count",)),
    # coagulation
    Analyte("prothrombin_time", "Prothrombin time", "5902-2", "s", (11, 13), ABIM, (4, 500),
            mc_med=("PROTHROMBIN TIME", "PROTHROMBIN TIME (PT)", "PT"), mimic=(51274, 52921), eicu=("PT",)),
    Analyte("inr", "INR", "6301-6", "1", (0.9, 1.1), MAYO, (0.3, 50), {"{ratio}": 1.0},
            mc_med=("INR", "POC:INR, ISTAT"), mimic=(51237, 51675), eicu=("PT - INR",)),
    Analyte("aptt", "Activated partial thromboplastin time", "14979-9", "s", (25, 35), ABIM, (5, 600),
            mc_med=("PTT", "APTT", "PARTIAL THROMBOPLASTIN TIME (PTT)", "PTT, ACTIVATED"), mimic=(51275, 52923),
            eicu=("PTT",)),
    Analyte("fibrinogen", "Fibrinogen", "3255-7", "mg/dL", (200, 400), ABIM, (5, 3000), MASS_MG,
            mc_med=("FIBRINOGEN",), mimic=(51214, 51623, 52116), eicu=("fibrinogen",)),
    # a bare ng/mL is taken for FEU; DDU differ by about a factor of two and are not converted
    Analyte("d_dimer", "D-dimer (FEU)", "48065-7", "ng/mL{FEU}", (None, 500), ABIM, (0, None),
            {"ng/mL": 1.0, "ug/L": 1.0, "ug/mL{FEU}": 1000.0, "ug/mL": 1000.0, "mg/L": 1000.0},
            mc_med=("D-DIMER", "D-DIMER, QUANTITATIVE"), mimic=(50915, 51196, 52551)),
    # blood gases: arterial or not told, and venous
    Analyte("ph", "pH, arterial or not told", "11558-4", "1", (7.38, 7.44), ABIM, (6.2, 8.2), {"{unit}": 1.0},
            mc_med=("PH (A)", "PH.ARTERIAL", "POC:PH (A), ISTAT", "PH, ARTERIAL"), mimic=(50820,), eicu=("pH",)),
    Analyte("ph_venous", "pH, venous", "2746-6", "1", NO_RANGE, None, (6.2, 8.2), {"{unit}": 1.0},
            mc_med=("PH (V)", "PH.VENOUS", "POC:PH (V), ISTAT", "PH, VENOUS")),
    Analyte("pco2", "pCO2, arterial or not told", "11557-6", "mm[Hg]", (38, 42), ABIM, (2, 250), KPA,
            mc_med=("PCO2 (A)", "PCO2.ARTERIAL", "POC:PCO2 (A), ISTAT", "PCO2, ARTERIAL"), mimic=(50818,),
            eicu=("paCO2",)),
    Analyte("pco2_venous", "pCO2, venous", "2021-4", "mm[Hg]", NO_RANGE, None, (2, 250), KPA,
            mc_med=("PCO2 (V)", "PCO2.VENOUS", "POC:PCO2 (V), ISTAT", "PCO2, VENOUS")),
    Analyte("po2", "pO2, arterial or not told", "11556-8", "mm[Hg]", (75, 100), ABIM, (2, 900), KPA,
            mc_med=("PO2 (A)", "PO2.ARTERIAL", "POC:PO2 (A), ISTAT", "PO2, ARTERIAL"), mimic=(50821,),
            eicu=("paO2",)),
    Analyte("po2_venous", "pO2, venous", "2705-2", "mm[Hg]", NO_RANGE, None, (2, 900), KPA,
            mc_med=("PO2 (V)", "PO2.VENOUS", "POC:PO2 (V), ISTAT", "PO2, VENOUS")),
    Analyte("bicarbonate_blood", "Bicarbonate, blood gas", "1959-6", "mmol/L", (23, 26), ABIM, (1, 80),
            {"meq/L": 1.0}, mc_med=("HCO3", "HCO3 (A)", "POC:HCO3", "POC:HCO3 (A), ISTAT", "HCO3.ARTERIAL"),
            mimic=(50803,), eicu=("HCO3",)),
    Analyte("bicarbonate_venous", "Bicarbonate, venous blood gas", "14627-4", "mmol/L", NO_RANGE, None, (1, 80),
            {"meq/L": 1.0}, mc_med=("HCO3 (V)", "POC:HCO3 (V), ISTAT", "HCO3.VENOUS")),
    Analyte("total_co2_blood", "Total CO2, blood gas", "34728-6", "mmol/L", NO_RANGE, None, (1, 90), {"meq/L": 1.0},
            mc_med=("TCO2", "TCO2 (A)", "POC:TCO2, ISTAT", "POC:TCO2 (A), ISTAT", "POC:TCO2 (V), ISTAT"),
            mimic=(50804, 52037), eicu=("Total CO2",)),
    Analyte("base_excess", "Base excess", "11555-0", "mmol/L", NO_RANGE, None, (-60, 60), {"meq/L": 1.0},
            mc_med=("BASE EXCESS", "BASE EXCESS (A)", "POC:BASE EXCESS, ISTAT", "POC:BASE EXCESS (V), ISTAT"),
            mimic=(50802,), eicu=("Base Excess",)),
    Analyte("oxygen_saturation", "Oxygen saturation of blood", "20564-1", "%", NO_RANGE, None, (0, 100),
            {"L/L": 100.0}, mc_med=("O2 SATURATION (A)", "POC:O2 SATURATION, ISTAT", "O2 SATURATION"),
            mimic=(50817,), eicu=("O2 Sat (%)",)),
    Analyte("carboxyhemoglobin", "Carboxyhemoglobin", "20563-3", "%", (None, 5), ABIM, (0, 100),
            mc_med=("CARBOXYHEMOGLOBIN",), mimic=(50805,), eicu=("Carboxyhemoglobin",)),
    Analyte("methemoglobin", "Methemoglobin", "2614-6", "%", NO_RANGE, None, (0, 100),
            mc_med=("METHEMOGLOBIN",), mimic=(50814,), eicu=("Methemoglobin",)),
    # thyroid and other hormones
    Analyte("tsh", "Thyrotropin (TSH)", "3016-3", "m[IU]/L", (0.5, 4.7), MGH, (0, 2000),
            mc_med=("TSH", "THYROID STIMULATING HORMONE (TSH)"), mimic=(50993,), eicu=("TSH",)),
    Analyte("t4_free", "Thyroxine, free", "3024-7", "ng/dL", (0.8, 1.8), ABIM, (0, 50), {"pmol/L": 0.0777},
            mc_med=("T4, FREE", "FREE T4"), mimic=(50995,), eicu=("free T4",)),
    Analyte("t4_total", "Thyroxine, total", "3026-2", "ug/dL", (5, 12), ABIM, (0, 100), {"nmol/L": 0.0777},
            mc_med=("T4, TOTAL",), mimic=(50994,), eicu=("T4",)),
    Analyte("t3_total", "Triiodothyronine, total", "3053-6", "ng/dL", NO_RANGE, None, (0, 2000), {"nmol/L": 65.1},
            mc_med=("T3, TOTAL",), mimic=(51001,), eicu=("T3",)),
    Analyte("cortisol", "Cortisol", "2143-6", "ug/dL", NO_RANGE, None, (0, 500), {"nmol/L": 1 / 27.59},
            mc_med=("CORTISOL",), mimic=(50909,), eicu=("cortisol",)),
    Analyte("pth", "Parathyroid hormone, intact", "2731-8", "pg/mL", (10, 65), ABIM, (0, 10000),
            {"ng/L": 1.0, "pmol/L": 9.43}, mc_med=("PTH, INTACT",), mimic=(50965,)),
    Analyte("hcg", "Choriogonadotropin, quantitative", "21198-7", "m[IU]/mL", NO_RANGE, None, (0, None),
            {"U/L": 1.0}, mc_med=("HCG, QUANTITATIVE", "BETA HCG, QUANTITATIVE"), mimic=(50946,)),
    # iron and vitamins
    Analyte("iron", "Iron", "2498-4", "ug/dL", (50, 150), ABIM, (0, 10000), FE,
            mc_med=("IRON", "IRON, TOTAL"), mimic=(50952,), eicu=("Fe",)),
    Analyte("tibc", "Iron binding capacity", "2500-7", "ug/dL", (250, 310), ABIM, (10, 2000), FE,
            mc_med=("TIBC", "IRON BINDING CAPACITY"), mimic=(50953,), eicu=("TIBC",)),
    Analyte("transferrin_saturation", "Transferrin saturation", "2502-3", "%", (20, 50), ABIM, (0, 100),
            mc_med=("TRANSFERRIN SATURATION", "% SATURATION"), mimic=(51746,), eicu=("Fe/TIBC Ratio",)),
    Analyte("transferrin", "Transferrin", "3034-6", "mg/dL", NO_RANGE, None, (10, 1500), MASS_MG,
            mc_med=("TRANSFERRIN",), mimic=(50998,), eicu=("transferrin",)),
    Analyte("ferritin", "Ferritin", "2276-4", "ng/mL", (24, 336), ABIM, (0, None), {"ug/L": 1.0},
            {"F": (24, 307), "M": (24, 336)}, mc_med=("FERRITIN",), mimic=(50924,), eicu=("Ferritin",)),
    Analyte("vitamin_b12", "Vitamin B12", "2132-9", "pg/mL", (200, 800), ABIM, (10, None),
            {"ng/L": 1.0, "pmol/L": 1.355}, mc_med=("VITAMIN B12",), mimic=(51010, 51728, 51729),
            eicu=("Vitamin B12",)),
    Analyte("folate", "Folate, serum", "2284-8", "ng/mL", (1.8, 9.0), ABIM, (0, 500),
            {"ug/L": 1.0, "nmol/L": 0.4414}, mc_med=("FOLATE", "FOLIC ACID"), mimic=(50925, 52562, 51730),
            eicu=("folate",)),
    Analyte("vitamin_d", "25-hydroxyvitamin D", "62292-8", "ng/mL", (30, 60), ABIM, (0, 1000),
            {"nmol/L": 1 / 2.496, "ug/L": 1.0}, mc_med=("VITAMIN D, 25-HYDROXY",), mimic=(50853,)),
    Analyte("haptoglobin", "Haptoglobin", "4542-7", "mg/dL", (16, 199), MGH, (0, 1500), MASS_MG,
            mc_med=("HAPTOGLOBIN",), mimic=(50935,), eicu=("haptoglobin",)),
    # inflammation
    Analyte("crp", "C-reactive protein", "1988-5", "mg/L", (None, 8), ABIM, (0, 1000), {"mg/dL": 10.0},
            mc_med=("C-REACTIVE PROTEIN", "CRP", "C-REACTIVE PROTEIN (CRP)"), mimic=(50889,), eicu=("CRP",)),
    Analyte("crp_hs", "C-reactive protein, high sensitivity", "30522-7", "mg/L", NO_RANGE, None, (0, 1000),
            {"mg/dL": 10.0}, mc_med=("C-REACTIVE PROTEIN, HIGH SENSITIVITY", "HS-CRP"), mimic=(51652,),
            eicu=("CRP-hs",)),
    Analyte("esr", "Erythrocyte sedimentation rate", "30341-2", "mm/h", (0, 20), ABIM, (0, 200),
            by_sex={"F": (0, 20), "M": (0, 15)}, mc_med=("ESR", "SEDIMENTATION RATE", "ESR (SED RATE)"),
            mimic=(51288,), eicu=("ESR",)),
    Analyte("procalcitonin", "Procalcitonin", "33959-8", "ng/mL", (None, 0.10), ABIM, (0, 5000), {"ug/L": 1.0},
            mc_med=("PROCALCITONIN",)),
    # lipids
    Analyte("cholesterol_total", "Cholesterol, total", "2093-3", "mg/dL", (None, 199), ATP, (10, 3000), LIPID,
            mc_med=("CHOLESTEROL, TOTAL", "CHOLESTEROL"), mimic=(50907,), eicu=("total cholesterol",)),
    Analyte("cholesterol_hdl", "Cholesterol, HDL", "2085-9", "mg/dL", (40, None), ATP, (0, 300), LIPID,
            mc_med=("CHOLESTEROL, HDL", "HDL CHOLESTEROL"), mimic=(50904,), eicu=("HDL",)),
    Analyte("cholesterol_ldl", "Cholesterol, LDL", "13457-7", "mg/dL", (None, 129), ATP, (0, 2000), LIPID,
            mc_med=("CHOLESTEROL, LDL", "LDL CHOLESTEROL", "LDL (CALCULATED)"), mimic=(50905, 50906), eicu=("LDL",)),
    Analyte("triglycerides", "Triglycerides", "2571-8", "mg/dL", (None, 149), ATP, (5, 30000), {"mmol/L": 88.57},
            mc_med=("TRIGLYCERIDE", "TRIGLYCERIDES"), mimic=(51000,), eicu=("triglycerides",)),
    # drugs and toxins that the ECG may show; a therapeutic range is not a reference range
    Analyte("digoxin", "Digoxin", "10535-3", "ng/mL", NO_RANGE, None, (0, 100), {"ug/L": 1.0, "nmol/L": 0.7809},
            mc_med=("DIGOXIN",), mimic=(50917,), eicu=("Digoxin",)),
    Analyte("lithium", "Lithium", "14334-7", "mmol/L", NO_RANGE, None, (0, 20), {"meq/L": 1.0},
            mc_med=("LITHIUM",), mimic=(50957, 52030)),
    Analyte("ethanol", "Ethanol", "5640-8", "mg/dL", NO_RANGE, None, (0, 2000), {"mmol/L": 4.607, "g/L": 100.0},
            mc_med=("ETHANOL", "ALCOHOL", "ETHANOL, SERUM"), mimic=(50922,), eicu=("ethanol",)),
    Analyte("acetaminophen", "Acetaminophen", "3298-7", "ug/mL", NO_RANGE, None, (0, 2000),
            {"mg/L": 1.0, "umol/L": 0.1512, "mg/dL": 10.0}, mc_med=("ACETAMINOPHEN",), mimic=(50856,),
            eicu=("Acetaminophen",)),
    Analyte("salicylate", "Salicylate", "4024-6", "mg/dL", NO_RANGE, None, (0, 500),
            {"ug/mL": 0.1, "mg/L": 0.1, "mmol/L": 13.81}, mc_med=("SALICYLATE",), mimic=(50981,),
            eicu=("salicylate",)),
)  # fmt: skip

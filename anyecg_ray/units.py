"""Units as laboratories spell them, and the UCUM code that each spelling means.

Case, blanks and the sign of micro carry no information in these tables (`MG/DL`, `mg / dL`, `mcg`, `µg`),
so they are dropped before the look-up. A spelling that is not listed is unknown, never guessed.
"""

from functools import lru_cache

SPELLINGS = {
    "mmol/L": "mmol/l mm/l mmole/l mmoles/l mmol",
    "meq/L": "meq/l meq",
    "umol/L": "umol/l mcmol/l micromol/l",
    "nmol/L": "nmol/l",
    "pmol/L": "pmol/l",
    "g/dL": "g/dl gm/dl gms/dl g%",
    "g/L": "g/l gm/l",
    "mg/dL": "mg/dl mg/100ml mgs/dl",
    "mg/L": "mg/l",
    "ug/dL": "ug/dl mcg/dl",
    "ug/L": "ug/l mcg/l",
    "ug/mL": "ug/ml mcg/ml",
    "ng/dL": "ng/dl",
    "ng/mL": "ng/ml",
    "ng/L": "ng/l",
    "pg/mL": "pg/ml",
    "ng/mL{FEU}": "ng/mlfeu ngfeu/ml ng/ml(feu) ng/ml{feu}",
    "ug/mL{FEU}": "ug/mlfeu mcg/mlfeu ugfeu/ml ug/ml(feu) ug/ml{feu} mg/lfeu mg/l(feu) mg/l{feu}",
    "U/L": "u/l iu/l units/l unit/l int.unit/l [iu]/l",
    "m[IU]/L": "miu/l uiu/ml mciu/ml mcu/ml uu/ml mu/l mcunits/ml microiu/ml  m[iu]/l u[iu]/ml",
    "m[IU]/mL": "miu/ml mu/ml m[iu]/ml",
    "10*3/uL": "k/ul k/mcl k/mm3 k/cmm k/cumm k/mmcu th/ul ths/ul th/cumm th/cmm thou/ul thou/mcl thou/cumm "
    "thousand/ul 103/ul 103/mcl 103mcl 103/mm3 103",
    "10*9/L": "109/l",
    "10*6/uL": "m/ul m/mcl m/mm3 m/cmm m/cumm m/mmcu mil/ul mil/mcl mil/cmm mill/ul mill/cumm mi/cumm million/ul "
    "106/ul 106/mcl 106mcl 106/mm3 106",
    "10*12/L": "1012/l",
    "/uL": "/ul /mcl /mm3 /cumm cells/ul #/ul #/cumm",
    "%": "% percent pct %cv %sat. %thb %totalhgb %oftotal",
    "L/L": "l/l",
    "fL": "fl u3 um3",
    "pg": "pg uug",
    "s": "s sec secs second seconds second(s)",
    "mm/h": "mm/h mm/hr mm/hr. mm/hour",
    "mm[Hg]": "mmhg mm(hg) mm/hg mm[hg] torr",
    "kPa": "kpa",
    "mosm/kg": "mosm/kg mosm/k mosm/kgh2o mosmol/kg mosmkg",
    "mosm/L": "mosm/l mosmol/l",
    "mL/min/{1.73_m2}": "ml/min/1.73m2 ml/min/1.73m^2 ml/min/1.73m*2 ml/min/1.73m² ml/min/1.73sqm ml/min/{1.73_m2} "
    "ml/min/1.73",
    "mL/min": "ml/min",
    "mmol/mol": "mmol/mol",
    "{unit}": "unit units unit(s) phunits ph [ph]",
    "{ratio}": "ratio inr {inr} {ratio}",
    "ms": "ms msec",
    "deg": "deg degrees",
    "a": "a yr year years",
}

NONE = frozenset(("", "n/a", "na", "none", "null", "nan", "-", "___"))
"""What tables write where they give no unit."""

_CODES = {spelling: code for code, line in SPELLINGS.items() for spelling in line.split()}


@lru_cache(4096)
def ucum(text: str | None) -> str | None:
    """The UCUM code of a unit: "" where the text names none, None where the spelling is unknown."""
    spelt = "".join((text or "").split()).lower().replace("µ", "u").replace("μ", "u")
    if spelt in NONE:
        return ""
    if spelt.lstrip("x").startswith("10"):  # x10E3/uL, 10^3/uL, 10*3/uL, 10(3)/mcL, x10 3/uL
        spelt = "".join(c for c in spelt if c not in "xe^*()")
    return _CODES.get(spelt)

"""What a model has to beat: the prevalence, age and sex, and measurements that a ruler makes on the ECG.

They are fitted on the training split and nowhere else: imputation and scaling are part of what is fitted, and
`predict` reads no label. A column of labels among the inputs is refused.
"""

import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from pydantic import Field
from threadpoolctl import threadpool_limits

from anyecg_ray import intervals, segments
from anyecg_ray.config import InputError, Settings
from anyecg_ray.machine import cores
from anyecg_ray.model import IndicatorCard

NAMES = ("prevalence", "age_sex", "features")
"""How common it is, age and sex, a hand-measured ECG."""

DEMOGRAPHICS = ("age", "sex")
"""Columns of the segment store that `age_sex` reads; `features` reads the samples alone."""

READ_OUT = ("age_value", "age_low", "age_high", "sex_male")
"""Indicators of which `age_sex` would read the answer, so that it is not fitted to them."""


class Baselines(Settings):
    """What the simple models are fitted on."""

    windows_per_encounter: int = Field(4, ge=1)
    """Training windows taken of one encounter; its neighbours look much the same."""

    max_windows: int = Field(20_000, ge=1)
    """Training windows in all."""

    min_patients: int = Field(10, ge=1)
    """Positive and negative patients in train below which a baseline is not fitted."""


@dataclass(frozen=True)
class Rows:
    """Windows as the baselines see them: one row a window."""

    age: np.ndarray
    """(n,) float32, years, NaN where unknown."""
    sex: np.ndarray
    """(n,) of F, M or anything else for unknown."""
    measured: np.ndarray
    """(n, len(intervals.NAMES)) float32."""
    labels: np.ndarray
    """(n, indicators) float32, NaN where not measured."""
    patient: np.ndarray
    """(n,) int."""
    encounter: np.ndarray
    """(n,) int."""


@dataclass(frozen=True)
class Fitted:
    """The baselines of all indicators, ready to predict."""

    prevalence: np.ndarray
    """(indicators,) share of positives in train, or mean of the values."""
    models: dict[str, list[Any]] = field(repr=False)
    """By baseline, an estimator of scikit-learn per indicator; None where train held too few."""

    def predict(self, age: np.ndarray, sex: np.ndarray, measured: np.ndarray) -> dict[str, np.ndarray]:
        """Probabilities, or values, of every baseline: (n, indicators) float32, NaN where it was not fitted."""
        inputs = {"age_sex": demographics(age, sex), "features": measured}
        out = {"prevalence": np.tile(self.prevalence.astype(np.float32), (len(age), 1))}
        with threadpool_limits(1):  # the threads of boosted trees meet after each tree: of a batch, for a few rows
            for name, x in inputs.items():
                out[name] = np.column_stack([_predicted(m, x) for m in self.models[name]]).astype(np.float32)
        return out


def fit(
    train: Rows, indicators: Sequence[IndicatorCard], settings: Baselines, columns: Sequence[str] = DEMOGRAPHICS
) -> Fitted:
    """Fit every baseline to every indicator, but for `age_sex` to READ_OUT.

    Raises InputError where a label is among `columns`.
    """
    check_inputs(columns)
    x = {"age_sex": demographics(train.age, train.sex), "features": train.measured}
    weight = 1 / np.bincount(train.encounter)[train.encounter] if len(train.encounter) else np.empty(0)

    targets = [
        _Target(train.labels[:, k], i.direction == "value", train.patient, weight, i.key in READ_OUT)
        for k, i in enumerate(indicators)
    ]
    # a thread per indicator rather than several per fit: small fits spend their time waiting for each other
    with warnings.catch_warnings(), threadpool_limits(1), ThreadPoolExecutor(cores()) as pool:
        warnings.simplefilter("ignore")  # a regression that stops at max_iter is good enough for a baseline
        found = list(pool.map(lambda target: _fit_all(target, x, settings.min_patients), targets))
    models = {name: [fitted[name] for _, fitted in found] for name in x}
    return Fitted(np.array([p for p, _ in found], np.float64), models)


def check_inputs(columns: Sequence[str]) -> None:
    """Raise InputError where a column that is to be learnt from holds what is to be predicted."""
    leaks = [c for c in columns if c.startswith((segments.label(""), "p:"))]
    if leaks:
        raise InputError(f"inputs: {', '.join(leaks)} is what is to be predicted; leave labels out of the inputs")


def demographics(age: np.ndarray, sex: np.ndarray) -> np.ndarray:
    """(n, 4) float64: age (NaN where unknown), whether it is unknown, female, male."""
    age = np.asarray(age, np.float64)
    return np.column_stack([age, np.isnan(age), sex == "F", sex == "M"]).astype(np.float64)


def measure(windows: np.ndarray, leads: Sequence[str], fs: float) -> np.ndarray:
    """`intervals.measure` on lead II, or on the first lead where there is no II. windows: (n, leads, samples)."""
    lead = leads.index("II") if "II" in leads else 0
    return intervals.measure(windows[:, lead], fs)


class _Target(NamedTuple):
    """What one indicator's baselines are fitted to, (n,) each."""

    y: np.ndarray
    value: bool
    patient: np.ndarray
    weight: np.ndarray
    read_out: bool


def _fit_all(target: _Target, x: Mapping[str, np.ndarray], least: int) -> tuple[float, dict[str, Any]]:
    """The prevalence, and a fitted model for each of the inputs, None where there is too little to fit it on."""
    known = np.isfinite(target.y)
    if not known.any():
        return np.nan, dict.fromkeys(x)
    y, weight = target.y[known], target.weight[known]
    models: dict[str, Any] = dict.fromkeys(x)
    if _enough(y, target.patient[known], target.value, least):
        for name in x.keys() - ({"age_sex"} if target.read_out else set()):
            models[name] = _fit(_model(name, target.value), x[name][known], y, weight, target.value)
    return float(np.average(y, weights=weight)), models


def _enough(y: np.ndarray, patient: np.ndarray, value: bool, least: int) -> bool:
    if value:
        return bool(len(np.unique(patient)) >= 2 * least and np.ptp(y) > 0)
    return min(len(np.unique(patient[y == 1])), len(np.unique(patient[y == 0]))) >= least


def _model(name: str, value: bool) -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import PolynomialFeatures, StandardScaler

    if name == "features":
        trees = HistGradientBoostingRegressor if value else HistGradientBoostingClassifier
        # no early stopping: its random hold-out would share patients with what is fitted
        return trees(max_iter=120, learning_rate=0.06, max_leaf_nodes=8, l2_regularization=1.0, early_stopping=False)
    return make_pipeline(
        SimpleImputer(strategy="median", keep_empty_features=True),
        StandardScaler(),
        PolynomialFeatures(3, include_bias=False),  # curved in age, and differently so for women and men
        StandardScaler(),
        Ridge(1.0) if value else LogisticRegression(C=1.0, max_iter=1000),
    )


def _fit(model: Any, x: np.ndarray, y: np.ndarray, weight: np.ndarray, value: bool) -> Any:
    last = f"{model.steps[-1][0]}__" if hasattr(model, "steps") else ""
    return model.fit(x, y if value else y > 0.5, **{f"{last}sample_weight": weight / weight.mean()})


def _predicted(model: Any, x: np.ndarray) -> np.ndarray:
    if model is None or not len(x):
        return np.full(len(x), np.nan)
    return np.asarray(model.predict_proba(x)[:, 1] if hasattr(model, "predict_proba") else model.predict(x))

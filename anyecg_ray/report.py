"""The evaluation as one page that a clinician can read: no script, no font, no picture from anywhere else."""

from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from typing import TYPE_CHECKING, Any

from anyecg_ray import __version__
from anyecg_ray.leakage import is_control

if TYPE_CHECKING:
    from anyecg_ray.evaluate import Evaluation

BLUE, GREY, LINE = "#0b5cad", "#8c959f", "#d0d7de"

RIVALS = {"age_sex": "age and sex alone", "features": "hand-measured ECG", "compare": "compared bundle"}


def page(it: "Evaluation", tiers: Mapping[str, int], paper: Mapping[str, int], curves: Mapping[str, Any]) -> str:
    """The whole report as HTML."""
    rows = it.overall()
    title = f"{it.bundle.card.model_id} on {it.card.dataset}, {it.settings.split} split"
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="soft">Version {escape(it.bundle.card.model_version)}, anyecg_ray {__version__}, '
        f"computed by {escape(it.computed_by)}</p>",
        '<p class="note"><strong>A research output.</strong> What follows says how well numbers estimated from an ECG agree '
        "with what a laboratory measured. They are not measurements, not a diagnosis, and not for deciding on a patient.</p>",
        _not_new(it.settings.split),
        _numbers(it),
        "<h2>How good each indicator is</h2>",
        "<p>The AUROC is the probability that an encounter with the abnormal result has the higher estimate than one without: "
        "0.5 is chance, 1 is perfect. The line is its 95% interval over patients; the open circle is what age and sex reach "
        "without any ECG. An indicator whose line does not lie right of the circle has not been shown to need the ECG.</p>",
        _forest(rows),
        _table(rows),
        _values(rows),
        "<h2>AnyECG-Lab's tiers</h2>",
        _tiers(tiers, paper),
        "<h2>Against simpler models, and one window</h2>",
        "<p>Differences in AUROC, paired: both models on the same patients in each of the draws. Above 0 this bundle is "
        "better; an interval that holds 0 shows no difference.</p>",
        _differences(rows),
        "<h2>Curves</h2>",
        '<p class="soft">Left: sensitivity against 1 − specificity. Right: how often the result was abnormal, against what was '
        "estimated; on the dashed line estimates mean what they say. By encounter.</p>",
        _curves(curves),
        "<h2>By group</h2>",
        "<p>No figure is given where a group has too few patients with or without the result.</p>",
        _slices(it.rows),
        "<h2>What could flatter these figures</h2>",
        _checks(it),
        "<h2>What was left out, and why</h2>",
        _drops(it.card.drops),
        "<h2>How it was done</h2>",
        _method(it),
    ]
    css = (resources.files("anyecg_ray") / "report.css").read_text()
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{escape(title)}</title><link rel="icon" href="data:,"><style>{css}</style></head>\n'
        f"<body><main>{''.join(body)}</main></body></html>\n"
    )


def _not_new(split: str) -> str:
    if split == "test":
        return ""
    return (
        f'<p class="note"><strong>Not new patients.</strong> The {escape(split)} split is what models are made with: these '
        "figures are flattered, and say nothing about patients whom the model has never seen.</p>"
    )


def _numbers(it: "Evaluation") -> str:
    encounters = len(set(it.found.encounter.tolist()))
    told = (
        (int(it.found.patient.max()) + 1, "patients"),
        (encounters, "encounters"),
        (len(it.found.labels), "windows of 10 s"),
        (len(it.found.indicators), "indicators"),
    )
    return '<ul class="numbers">' + "".join(f"<li><b>{n:,}</b>{what}</li>" for n, what in told) + "</ul>"


def _named(row: Mapping[str, Any]) -> str:
    direction = {"low": "low", "high": "high", "value": "value", "present": ""}[row["direction"]]
    control = " (control: must be 0.5)" if is_control(row["indicator"]) else ""
    return escape(f"{row['name']} {direction}".strip() + control)


def _number(value: Any, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _interval(row: Mapping[str, Any], name: str, digits: int = 2) -> str:
    if row.get(name) is None:
        return "–"
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    return f"{row[name]:.{digits}f}" + (f" ({low:.{digits}f} to {high:.{digits}f})" if low is not None else "")


def _scroll(label: str, table: str) -> str:
    return f'<div class="wide" tabindex="0" role="region" aria-label="{escape(label)}">{table}</div>'


def _grid(label: str, heads: Sequence[str], rows: Sequence[Sequence[str]], text: Sequence[int] = ()) -> str:
    """A table; cells are HTML already. text: columns that are words."""

    def cell(tag: str, i: int, content: str) -> str:
        scope = ' scope="col"' if tag == "th" else ""
        return f"<{tag}{scope}{' class=text' if i in text else ''}>{content}</{tag}>"

    head = "".join(cell("th", i, h) for i, h in enumerate(heads))
    body = "".join("<tr>" + "".join(cell("td", i, c) for i, c in enumerate(row)) + "</tr>" for row in rows)
    return _scroll(label, f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")


def _forest(rows: Sequence[Mapping[str, Any]]) -> str:
    """AUROCs with their intervals, one under the other, best first; a name stands above its line where it is narrow."""
    told = [r for r in rows if r.get("auroc") is not None]
    if not told:
        return "<p>No indicator has enough patients for a figure.</p>"
    shown = [r[n] for r in told for n in ("auroc", "auroc_low", "age_sex_auroc") if r.get(n) is not None]
    low = int(min(0.4, *shown) * 10) / 10

    def at(value: float) -> str:
        return f"{100 * (value - low) / (1 - low):.2f}%"

    ticks = [i / 10 for i in range(round(low * 10), 11)]
    lines = "".join(f'<i class="{"half" if v == 0.5 else "tick"}" style="left:{at(v)}"></i>' for v in ticks)
    axis = "".join(f'<b style="left:{at(v)}">{v:.1f}</b>' for v in ticks)
    parts = [f'<div class="forest" aria-hidden="true"><span></span><div class="track axis">{axis}</div>']
    for row in told:
        marks = lines
        if row["auroc_low"] is not None:
            width = f"{100 * (row['auroc_high'] - row['auroc_low']) / (1 - low):.2f}%"
            marks += f'<i class="line" style="left:{at(row["auroc_low"])};width:{width}"></i>'
        marks += f'<i class="dot" style="left:{at(row["auroc"])}"></i>'
        if row.get("age_sex_auroc") is not None:
            marks += f'<i class="ring" style="left:{at(row["age_sex_auroc"])}"></i>'
        parts.append(f'<span>{_named(row)}</span><div class="track">{marks}</div>')
    caption = f"By encounter. ● this bundle with its 95% interval, ○ age and sex alone. {len(told)} indicators; numbers below."
    return f"<figure>{''.join(parts)}</div><figcaption>{caption}</figcaption></figure>"


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    heads = ("Indicator", "AUROC (95% interval)", "Patients with / without", "Prevalence", "AUPRC", "Sensitivity", "Specificity",
             "PPV", "NPV", "Brier", "Calibration error")  # fmt: skip
    body = []
    for r in (r for r in rows if r["direction"] != "value"):
        sides = f"{r['n_patients_positive'] or 0:,} / {r['n_patients_negative'] or 0:,}"
        if r.get("note"):
            body.append([_named(r), f'<span class="soft">{escape(r["note"])}</span>', sides, *["–"] * 8])
            continue
        names = ("auprc", "sensitivity", "specificity", "ppv", "npv", "brier", "calibration_error")
        told = (_below(r, n) for n in names)
        body.append([_named(r), _interval(r, "auroc"), sides, _number(r.get("prevalence")), *told])
    return _grid("Figures by indicator", heads, body) + _weak_intervals(rows) if body else ""


def _below(row: Mapping[str, Any], name: str, digits: int = 2) -> str:
    """A figure, and below it its interval, so that many fit side by side."""
    if row.get(f"{name}_low") is None:
        return _number(row.get(name), digits)
    low, high = (f"{row[f'{name}_{end}']:.{digits}f}" for end in ("low", "high"))
    return f'{row[name]:.{digits}f}<br><small class="soft">{low} to {high}</small>'


def _weak_intervals(rows: Sequence[Mapping[str, Any]]) -> str:
    """Which intervals say less than they seem to."""
    told = "".join(f"<li>{_named(r)}: {escape(r['interval_note'])}</li>" for r in rows if r.get("interval_note"))
    about = (
        '<p class="soft">Below each figure its 95% interval over patients, and none where too many draws have no such figure. '
        "An interval without width is no certainty: too few patients, or none whom the model gets wrong. The calibration "
        "error of draws lies above that of all patients, the more the fewer they are."
    )
    return f"{about}</p>" + (
        f"<details><summary>Intervals to be wary of</summary><ul>{told}</ul></details>" if told else ""
    )


def _values(rows: Sequence[Mapping[str, Any]]) -> str:
    mine = [r for r in rows if r["direction"] == "value"]
    if not mine:
        return ""
    heads = (
        "Value",
        "Mean error (95% interval)",
        "Unit",
        "Patients",
        "RMSE",
        "Correlation",
        "R²",
        "Bias",
        "Limits of agreement",
    )
    body = [
        [_named(r), escape(r["note"]) if r.get("note") else _interval(r, "mae", 3), escape(r["unit"] or ""), f"{r['n_patients']:,}",
         _below(r, "rmse", 3), _below(r, "pearson"), _below(r, "r2"), _below(r, "bias", 3),
         f"{_number(r.get('limit_low'), 3)} to {_number(r.get('limit_high'), 3)}"]
        for r in mine
    ]  # fmt: skip
    return "<h2>Estimated values</h2>" + _grid("Values", heads, body)


def _tiers(tiers: Mapping[str, int], paper: Mapping[str, int]) -> str:
    named = {"strong": "above 0.65", "moderate": "0.55 to 0.65", "limited": "below 0.55"}
    body = [[f"{name} ({told})", str(tiers[name]), str(paper[name])] for name, told in named.items()]
    return (
        _grid("Tiers", ("AUROC", "Here", "AnyECG-Lab (108 indicators)"), body)
        + '<p class="soft">Other data, other labels, other patients: the columns stand side by side for orientation, and '
        "nothing here claims to reproduce the paper. Controls are not counted.</p>"
    )


def _differences(rows: Sequence[Mapping[str, Any]]) -> str:
    names = {**RIVALS, "first_window": "its first window alone"}
    used = [n for n in names if any(r.get(f"over_{n}") is not None for r in rows)]
    body = [[_named(r), *(_interval(r, f"over_{n}", 3) for n in used)] for r in rows if r.get("auroc") is not None]
    if not body or not used:
        return "<p>There is nothing to compare with.</p>"
    return _grid("Differences", ("Indicator", *(f"over {names[n]}" for n in used)), body)


def _curves(curves: Mapping[str, Any]) -> str:
    if not curves:
        return "<p>None: there are too few patients.</p>"
    figures = [
        f"<figure>{_drawn(key, told)}<figcaption>{escape(key)}</figcaption></figure>" for key, told in curves.items()
    ]
    return f'<div class="curves">{"".join(figures)}</div>'


def _drawn(key: str, told: Mapping[str, Any]) -> str:
    """ROC and calibration side by side, each in a unit square."""

    def path(points: Sequence[Sequence[float]], left: int) -> str:
        return " ".join(f"{left + 100 * p[0]:.1f},{110 - 100 * p[1]:.1f}" for p in points)

    parts = [f'<svg viewBox="0 0 236 126" role="img" aria-label="ROC and calibration of {escape(key)}">']
    for left in (8, 128):
        parts.append(f'<rect x="{left}" y="10" width="100" height="100" fill="none" stroke="{LINE}"/>')
        parts.append(f'<line x1="{left}" y1="110" x2="{left + 100}" y2="10" stroke="{GREY}" stroke-dasharray="3 3"/>')
        for value, at in (("0", left), ("1", left + 100)):
            parts.append(f'<text x="{at}" y="122" font-size="9" text-anchor="middle">{value}</text>')
    parts.append(f'<polyline points="{path(told["roc"], 8)}" fill="none" stroke="{BLUE}" stroke-width="2"/>')
    parts.append(
        f'<polyline points="{path(told["calibration"], 128)}" fill="none" stroke="{BLUE}" stroke-width="1.5"/>'
    )
    parts += [
        f'<circle cx="{128 + 100 * p[0]:.1f}" cy="{110 - 100 * p[1]:.1f}" r="2.5" fill="{BLUE}"/>'
        for p in told["calibration"]
    ]
    return "".join(parts) + "</svg>"


def _slices(rows: Sequence[Mapping[str, Any]]) -> str:
    groups = list(dict.fromkeys(r["slice"] for r in rows if r["slice"] != "all"))
    parts = []
    for group in groups:
        mine = [r for r in rows if r["slice"] == group and r["level"] == "encounter" and r["direction"] != "value"]
        body = [
            [_named(r), f'<span class="soft">{escape(r["note"])}</span>' if r.get("note") else _interval(r, "auroc"),
             f"{r['n_patients_positive'] or 0:,} / {r['n_patients_negative'] or 0:,}"]
            for r in mine
        ]  # fmt: skip
        table = _grid(group, ("Indicator", "AUROC (95% interval)", "Patients with / without"), body)
        parts.append(f"<details><summary>{escape(group)}</summary>{table}</details>")
    return "".join(parts) or "<p>There are no groups.</p>"


def _checks(it: "Evaluation") -> str:
    body = [[escape(c.name), f'<span class="{c.verdict}">{c.verdict}</span>', escape(c.detail)] for c in it.checks]
    return _grid("Checks", ("Question", "Answer", "Detail"), body, text=(1, 2))


def _drops(drops: Mapping[str, int]) -> str:
    ranked = sorted(drops.items(), key=lambda item: -item[1])
    body = [[escape(reason), f"{n:,}"] for reason, n in ranked]
    return _grid("What was left out", ("Reason", "Number"), body) if body else "<p>Nothing.</p>"


def _method(it: "Evaluation") -> str:
    settings = it.card.settings
    told = [
        f"Segments {it.card.fingerprint}: split “{settings.get('split')}”, results by the clock “{settings.get('clock')}”, from "
        f"{settings.get('align', {}).get('before')} minutes before to {settings.get('align', {}).get('after')} after.",
        "An encounter's estimate is the mean over its labelled windows; it is positive if any of them is.",
        f"Intervals: {it.settings.draws:,} draws of patients with replacement, all of a patient's windows together.",
        f"A figure needs {it.settings.min_patients} patients on either side.",
        "Thresholds and calibration were fitted on the validation split by whoever made the bundle, the simple models here on "
        f"{it.fitted_on:,} windows of the training split.",
        f"Weights {it.bundle.card.weights_sha256[:16]}…, preprocessing {it.bundle.card.preprocess_fingerprint}.",
    ]
    return "<ul>" + "".join(f"<li>{escape(t)}</li>" for t in told) + "</ul>"

"""Estimates as FHIR R4: an Observation for each, the model as their Device.

An estimate must never pass for a laboratory's result: its code is ours and not LOINC's, its status is preliminary, and
it bears the label AIAST ("asserted by artificial intelligence"). The analyte's LOINC code stands in a component.
Source: hl7.org/fhir/R4, Observation and Device; terminology.hl7.org, v3-ObservationValue.
"""

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

from anyecg_ray.model import Card

NOTE = "An estimate for research, made from an ECG by a neural network. Not a measurement, not for diagnosis."

UCUM = "http://unitsofmeasure.org"

LABEL = {
    "system": "http://terminology.hl7.org/CodeSystem/v3-ObservationValue",
    "code": "AIAST",
    "display": "Artificial Intelligence asserted",
}

ABSENT = "http://terminology.hl7.org/CodeSystem/data-absent-reason"


def observations(rows: Iterable[dict[str, Any]], card: Card) -> Iterator[dict[str, Any]]:
    """An Observation for each row of schema.ECG_LAB_ESTIMATE; one without a number says why in dataAbsentReason."""
    names = {i.key: i.name for i in card.indicators}
    for row in rows:
        yield _observation(row, names.get(row["indicator"], row["indicator"]))


def bundle(rows: Iterable[dict[str, Any]], card: Card) -> dict[str, Any]:
    """A Bundle of type collection: the Device and an Observation for each row."""
    resources = [device(card), *observations(rows, card)]
    return {
        "resourceType": "Bundle",
        "type": "collection",
        "entry": [{"fullUrl": f"urn:anyecg:{r['resourceType']}:{r['id']}", "resource": r} for r in resources],
    }


def device(card: Card) -> dict[str, Any]:
    """The model: who it is, and the hash of its weights."""
    return {
        "resourceType": "Device",
        "id": _device_id(card.model_id, card.model_version),
        "identifier": [
            {"system": "urn:anyecg:model", "value": f"{card.model_id}/{card.model_version}"},
            {"system": "urn:anyecg:weights-sha256", "value": card.weights_sha256},
        ],
        "status": "active",
        "deviceName": [{"name": card.model_id, "type": "model-name"}],
        "version": [{"value": card.model_version}],
        "type": {"text": "neural network that estimates laboratory indicators from an ECG"},
        "note": [{"text": NOTE if card.trained else f"Untrained: its estimates mean nothing. {NOTE}"}],
    }


def _observation(row: dict[str, Any], name: str) -> dict[str, Any]:
    key = f"{row['span_id']}|{row['window_start']}|{row['indicator']}|{row['model_version']}"
    found: dict[str, Any] = {
        "resourceType": "Observation",
        "id": _id(key),
        "meta": {"security": [LABEL]},
        "status": "preliminary",
        "category": [
            {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/observation-category", "code": "procedure"}]}
        ],
        "code": {
            "coding": [{"system": "urn:anyecg:indicator", "code": row["indicator"]}],
            "text": f"{name}, estimated from an ECG ({row['indicator']})",
        },
        "issued": row["estimated_at"].isoformat(timespec="milliseconds"),
        "method": {"text": "neural network on ten-second windows of the ECG"},
        "device": {"reference": f"Device/{_device_id(row['model_id'], row['model_version'])}"},
        "derivedFrom": [{"type": "Media", "identifier": {"system": "urn:anyecg:span", "value": row["span_id"]}}],
        "note": [{"text": NOTE}],
        **_whose(row),
        **_number(row),
    }
    if components := _components(row):
        found["component"] = components
    return found


def _whose(row: dict[str, Any]) -> dict[str, Any]:
    told: dict[str, Any] = {}
    if row["patient_id"]:
        told["subject"] = {
            "type": "Patient",
            "identifier": {"system": "urn:anyecg:patient", "value": row["patient_id"]},
        }
    if row["encounter_id"]:
        who = {"system": "urn:anyecg:encounter", "value": row["encounter_id"]}
        told["encounter"] = {"type": "Encounter", "identifier": who}
    if row["ecg_time"]:
        told["effectiveDateTime"] = row["ecg_time"].isoformat(timespec="milliseconds")
    return told


def _number(row: dict[str, Any]) -> dict[str, Any]:
    if row["value"] is not None:
        return {"valueQuantity": _quantity(row["value"], row["unit"])}
    if row["probability"] is not None:
        told: dict[str, Any] = {"valueQuantity": _quantity(row["probability"], "1")}
        if row["abnormal"] is not None:
            where = "at or above" if row["abnormal"] else "below"
            told["interpretation"] = [{"text": f"{where} the threshold that was fitted on validation data"}]
        return told
    return {"dataAbsentReason": {"coding": [{"system": ABSENT, "code": "error"}], "text": row["status"]}}


def _components(row: dict[str, Any]) -> list[dict[str, Any]]:
    """The analyte with its LOINC code, and the ends of a value's interval."""
    told: list[dict[str, Any]] = []
    if row["loinc"]:
        code = {"coding": [{"system": "http://loinc.org", "code": row["loinc"]}], "text": "what is estimated"}
        if row["value"] is not None:
            told.append({"code": code, "valueQuantity": _quantity(row["value"], row["unit"])})
        else:
            told.append({"code": code, "valueString": f"no value; the probability of {row['indicator']}"})
    for end in ("lower", "upper"):
        if row[end] is not None:
            code = {"coding": [{"system": "urn:anyecg:interval", "code": end}], "text": f"95% interval, {end} end"}
            told.append({"code": code, "valueQuantity": _quantity(row[end], row["unit"])})
    return told


def _quantity(value: float, unit: str | None) -> dict[str, Any]:
    told: dict[str, Any] = {"value": round(float(value), 6)}
    return told | ({"unit": unit, "system": UCUM, "code": unit} if unit else {})


def _device_id(model_id: str, version: str) -> str:
    return _id(f"{model_id}/{version}")


def _id(key: str) -> str:
    """The same estimate has the same id in every export; FHIR allows 64 letters, digits, dots and dashes."""
    return hashlib.sha256(key.encode()).hexdigest()[:40]

"""Estimates as FHIR R4: an Observation for each, the model as their Device.

An estimate must never pass for a laboratory's result: its code is ours and not LOINC's, its status is preliminary, and
it bears the label AIAST ("asserted by artificial intelligence"). The analyte's LOINC code stands in a component.
Ids come from the estimate's key, so that the same estimate is the same resource in every export.
Source: hl7.org/fhir/R4, Observation and Device; terminology.hl7.org, v3-ObservationValue.
"""

import hashlib
import uuid
from collections.abc import Iterable, Iterator
from typing import Any

from anyecg_ray import absence
from anyecg_ray.model import Card
from anyecg_ray.schema import Status

NOTE = "An estimate for research, made from an ECG by a neural network. Not a measurement, not for diagnosis."

UCUM = "http://unitsofmeasure.org"

LABEL = {
    "system": "http://terminology.hl7.org/CodeSystem/v3-ObservationValue",
    "code": "AIAST",
    "display": "Artificial Intelligence asserted",
}

ABSENT = "http://terminology.hl7.org/CodeSystem/data-absent-reason"

ABSENT_CODES = {
    Status.TRANSIENT: "temp-unknown",  # the next run tries it again
    **dict.fromkeys((Status.UNREADABLE, Status.MISSING_SIGNAL, Status.TRUNCATED, absence.NOT_FINITE), "error"),
}
"""By the reason; of all others "not-performed", because the network was never run on such a signal."""


def observations(rows: Iterable[dict[str, Any]], card: Card) -> Iterator[dict[str, Any]]:
    """An Observation for each row of schema.ECG_LAB_ESTIMATE; one without a number says why in dataAbsentReason."""
    names = {i.key: i.name for i in card.indicators}
    for row in rows:
        yield _observation(row, names.get(row["indicator"], row["indicator"]))


def bundle(rows: Iterable[dict[str, Any]], card: Card) -> dict[str, Any]:
    """A Bundle of type collection: the Device, and an Observation for each row that refers to it by URN.

    A relative reference (`Device/…`) cannot be resolved in a Bundle that came from no server.
    """
    model = device(card)
    found = [o | {"device": {"reference": _urn(model)}} for o in observations(rows, card)]
    return {
        "resourceType": "Bundle",
        "type": "collection",
        "entry": [{"fullUrl": _urn(r), "resource": r} for r in (model, *found)],
    }


def _urn(resource: dict[str, Any]) -> str:
    return f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, 'urn:anyecg:' + resource['id'])}"


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
    if why := absence.reason(row):
        return {"dataAbsentReason": _absent(ABSENT_CODES.get(why, "not-performed"), why)}
    if row["value"] is not None:
        return {"valueQuantity": _quantity(row["value"], row["unit"])}
    told: dict[str, Any] = {"valueQuantity": _quantity(row["probability"], "1")}
    if row["abnormal"] is not None:
        where = "at or above" if row["abnormal"] else "below"
        told["interpretation"] = [{"text": f"{where} the threshold that was fitted on validation data"}]
    return told


def _absent(code: str, why: str) -> dict[str, Any]:
    return {"coding": [{"system": ABSENT, "code": code}], "text": why}


def _components(row: dict[str, Any]) -> list[dict[str, Any]]:
    """The analyte with its LOINC code, and a value's interval."""
    told: list[dict[str, Any]] = []
    has_value = row["value"] is not None and absence.reason(row) is None
    if row["loinc"]:
        code = {"coding": [{"system": "http://loinc.org", "code": row["loinc"]}], "text": "what is estimated"}
        if has_value:
            told.append({"code": code, "valueQuantity": _quantity(row["value"], row["unit"])})
        else:
            why = _absent("not-applicable", f"no value is estimated; this is about {row['indicator']}")
            told.append({"code": code, "dataAbsentReason": why})
    if has_value:
        ends = {end: _quantity(row[of], row["unit"]) for end, of in (("low", "lower"), ("high", "upper"))}
        code = {"coding": [{"system": "urn:anyecg:component", "code": "interval-95"}], "text": "95% interval"}
        told.append({"code": code, "valueRange": ends})
    return told


def _quantity(value: float, unit: str | None) -> dict[str, Any]:
    told: dict[str, Any] = {"value": round(float(value), 6)}
    return told | ({"unit": unit, "system": UCUM, "code": unit} if unit else {})


def _device_id(model_id: str, version: str) -> str:
    return _id(f"{model_id}/{version}")


def _id(key: str) -> str:
    """The same estimate has the same id in every export; FHIR allows 64 letters, digits, dots and dashes."""
    return hashlib.sha256(key.encode()).hexdigest()[:40]

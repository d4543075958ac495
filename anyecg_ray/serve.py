"""The endpoint on Ray Serve: ingress replicas that read and preprocess, and replicas of each model that predict.

A model's deployment bears its name, not its version: a new version replaces the old one by Serve's rolling update, and
for as long as both are there each answer says which of them computed it (estimating.py). The bundle is the deployment's
user_config, so that a replica takes a new one without a restart and answers with the old one until then.
"""

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import ray
from pydantic import Field, field_validator
from ray import serve as rayserve
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from anyecg_ray import storage, telemetry
from anyecg_ray.api import Service, create
from anyecg_ray.backends import Compute, Estimator, cores
from anyecg_ray.config import InputError
from anyecg_ray.counting import Counts, Snapshot, text
from anyecg_ray.estimating import CHUNK, Predicted, Served
from anyecg_ray.forms import Intake
from anyecg_ray.guard import Guard
from anyecg_ray.keys import Gate, from_environment
from anyecg_ray.limits import Admission, Limits
from anyecg_ray.model import Card, load, load_card
from anyecg_ray.problems import busy

APP = "anyecg"


class Application(Compute):
    """Serve models over HTTP: keys, limits, models; how many replicas of each part."""

    bundle: list[str] = Field(min_length=1)
    """The models: folders or s3:// prefixes, give it once for each. The first is the one that is used by default."""

    auth: bool = True
    """API keys are asked for; --no-auth: they are not, and only this machine is answered."""

    keys: str | None = None
    """File of the keys (`anyecg keys`), beside those in ANYECG_API_KEYS; it is read again every few seconds."""

    record_prefix: list[str] = []
    """Folders or s3:// prefixes below which a request may name a record for the server to read."""

    limits: Limits = Limits()
    """What one request may ask for, and all of them together."""

    replicas: int = Field(1, ge=1)
    """Ingress replicas: processes that read and preprocess."""

    ingress_cpus: float = Field(0.5, ge=0)
    """CPUs that Ray sets aside for one of them."""

    models: int = Field(1, ge=1)
    """Replicas of each model."""

    max_models: int = Field(1, ge=1)
    """Up to so many replicas of each model, as the load asks for."""

    model_cpus: float = Field(0.5, ge=0)
    """CPUs that Ray sets aside for one of them."""

    model_gpus: float = Field(0.0, ge=0)
    """GPUs that Ray sets aside for one of them."""

    batch_windows: int = Field(64, ge=CHUNK)
    """Windows that a model reads at a time, from as many requests as there are."""

    batch_wait_ms: float = Field(2.0, ge=0)
    """For so long a batch waits for more windows."""

    @field_validator("bundle", "record_prefix", mode="before")
    @classmethod
    def _one_or_more(cls, given: Any) -> Any:
        return [given] if isinstance(given, str) else given


class Answered(NamedTuple):
    """What a model's replica sends back."""

    logits: np.ndarray | None
    card: str | None
    """As JSON, where it is not the one that was asked for."""


class Windows(NamedTuple):
    """What a model's replica is asked: windows, and which preprocessing made them."""

    x: np.ndarray
    fingerprint: str


@rayserve.deployment
class Model:
    """One copy of a model."""

    def __init__(self, compute: Compute, batch_windows: int, batch_wait_ms: float) -> None:
        self._compute = compute
        self._held: Estimator | None = None
        self._one_at_a_time = ThreadPoolExecutor(1)
        self._batched.set_max_batch_size(batch_windows)
        self._batched.set_batch_wait_timeout_s(batch_wait_ms / 1000)

    async def reconfigure(self, config: dict[str, str]) -> None:
        """Take another bundle; until it is ready the one before answers."""
        found = await asyncio.to_thread(_estimator, config["bundle"], config["sha256"], self._compute)
        self._held = found

    async def __call__(self, x: np.ndarray, sha256: str, fingerprint: str) -> Answered:
        """x: (windows, leads, samples), of the preprocessing with this fingerprint."""
        logits, card = await self._batched(Windows(x, fingerprint))
        return Answered(logits, None if card.weights_sha256 == sha256 else card.model_dump_json())

    @rayserve.batch(max_batch_size=CHUNK, batch_size_fn=lambda asked: sum(len(a.x) for a in asked))
    async def _batched(self, asked: list[Windows]) -> list[tuple[np.ndarray | None, Card]]:
        estimator = self._held
        assert estimator is not None  # reconfigure comes before the first request
        fits = [a.x if a.fingerprint == estimator.card.preprocess_fingerprint else None for a in asked]
        together = [x for x in fits if x is not None]
        loop = asyncio.get_running_loop()
        logits = await loop.run_in_executor(self._one_at_a_time, _timed, estimator, together) if together else None
        found, at = [], 0
        for x in fits:
            n = 0 if x is None else len(x)
            found.append((None if x is None or logits is None else logits[at : at + n], estimator.card))
            at += n
        return found

    async def ping(self) -> bool:
        """Whether a bundle is held."""
        return self._held is not None


def _estimator(bundle: str, sha256: str, compute: Compute) -> Estimator:
    found = load(bundle)
    if found.card.weights_sha256 != sha256:
        raise InputError(f"{bundle}: is not the bundle that was asked for; it changed while it was loaded")
    return Estimator(found, compute)


def _timed(estimator: Estimator, parts: Sequence[np.ndarray]) -> np.ndarray:
    started = time.perf_counter()
    logits = estimator.logits(np.concatenate(parts))
    telemetry.predicted(len(logits), time.perf_counter() - started)
    return logits


@rayserve.deployment
class Tally:
    """Keeps what every ingress replica has counted, so that any of them can tell the sum."""

    def __init__(self) -> None:
        self._told: dict[str, Snapshot] = {}

    async def tell(self, who: str, snapshot: Snapshot) -> list[Snapshot]:
        """Take a replica's counts; returns everybody's. Those of a replica that is gone stay: counters never fall."""
        self._told[who] = snapshot
        return list(self._told.values())


class Asked:
    """A model behind its deployment."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle

    async def __call__(self, x: np.ndarray, card: Card) -> Predicted:
        """See estimating.Predict. A replica that dies is asked again elsewhere: predicting twice is harmless."""
        for attempt in range(3):
            try:
                got = await self._handle.remote(x, card.weights_sha256, card.preprocess_fingerprint)
            except BackPressureError:
                raise busy("the model has more to do than it takes on") from None
            except (ray.exceptions.RayActorError, DeploymentUnavailableError):
                await asyncio.sleep(0.2 * 2**attempt)
            else:
                other = None if got.card is None else Card.model_validate_json(got.card)
                return Predicted(got.logits, other)
        raise busy("the model does not answer", 5)

    async def answers(self) -> bool:
        """Whether the model answers within five seconds, or is too busy to."""
        try:
            async with asyncio.timeout(5):
                return bool(await self._handle.ping.remote())
        except BackPressureError:
            return True
        except (TimeoutError, ray.exceptions.RayError, DeploymentUnavailableError):
            return False


class Entry(NamedTuple):
    """Who and what comes in."""

    auth: bool
    keys: str | None
    given_keys: str
    """Hashes from the environment of whoever deployed the application."""
    prefixes: tuple[str, ...]
    limits: Limits


@rayserve.deployment
@rayserve.ingress()
class Ingress:
    """Reads requests and asks the models."""

    def __init__(self, entry: Entry, tally: DeploymentHandle, *handles: DeploymentHandle) -> None:
        self._entry = entry
        self._gate = Gate(entry.keys, entry.given_keys) if entry.auth else None
        self._tally = tally
        self._asked = [Asked(handle) for handle in handles]
        self._models: list[Served] = []
        self._counts = Counts()
        self._who = rayserve.get_replica_context().replica_id.unique_id

    def reconfigure(self, cards: list[dict[str, Any]]) -> None:
        """Take the cards of the models, in the order of their handles."""
        self._models = [Served(Card(**c), asked) for c, asked in zip(cards, self._asked, strict=True)]

    def __serve_build_asgi_app__(self) -> Guard:
        limits = self._entry.limits
        pool = ThreadPoolExecutor(max(2, cores()))
        intake = Intake(limits, self._entry.prefixes, Admission(limits), pool)
        return create(Service(lambda: self._models, intake, self._gate, self._counts, self._ready, self._told))

    async def _ready(self) -> dict[str, bool]:
        answers = await asyncio.gather(*(asked.answers() for asked in self._asked))
        names = [f"{s.card.model_id}@{s.card.model_version}" for s in self._models]
        return dict(zip(names, answers, strict=True))

    async def _told(self) -> bytes:
        return text(await self._tally.tell.remote(self._who, self._counts.snapshot()))


def application(settings: Application) -> rayserve.Application:
    """The application, as `serve deploy` builds it from a config file and `anyecg serve` from its flags.

    Raises InputError where a bundle, a key or a limit cannot be used.
    """
    cards = [load_card(uri) for uri in settings.bundle]
    names = _names(cards)
    if settings.auth:
        Gate(settings.keys, from_environment())  # so that a server without keys fails here and not in a replica
    models = [_model(name, storage.absolute(uri), card, settings) for name, uri, card in zip(names, settings.bundle, cards, strict=True)]
    requests = settings.limits.requests
    ingress = Ingress.options(
        num_replicas=settings.replicas,
        ray_actor_options={"num_cpus": settings.ingress_cpus},
        # above the limit the replica itself answers 503, as a problem and at once
        max_ongoing_requests=4 * requests + 16,
        max_queued_requests=4 * requests + 16,
        graceful_shutdown_timeout_s=settings.limits.timeout,
        user_config=[card.model_dump() for card in cards],
        logging_config=QUIET,
    )
    tally = Tally.options(ray_actor_options={"num_cpus": 0}, max_ongoing_requests=1000, logging_config=QUIET).bind()
    rate = settings.limits.rate / settings.replicas
    entry = Entry(
        auth=settings.auth,
        keys=settings.keys and storage.absolute(settings.keys),
        given_keys=from_environment(),
        prefixes=tuple(storage.absolute(p) for p in settings.record_prefix),
        limits=settings.limits.model_copy(update={"rate": rate}),
    )
    return ingress.bind(entry, tally, *models)


QUIET = {"enable_access_log": False}
"""Serve's own access log has the path as it came, which may name a patient; guard.py writes ours."""


def _names(cards: Sequence[Card]) -> list[str]:
    """A deployment's name for each model: its own, with the version where an earlier one has the name already."""
    names: list[str] = []
    for card in cards:
        plain = "".join(c if c.isalnum() or c in "-_." else "-" for c in card.model_id)
        name = f"model-{plain}" if f"model-{plain}" not in names else f"model-{plain}-{card.model_version}"
        if name in names:
            raise InputError(f"setting bundle: {card.model_id} {card.model_version} is given twice; give it once")
        names.append(name)
    return names


def _model(name: str, uri: str, card: Card, settings: Application) -> Any:
    compute = Compute(**settings.model_dump(include=set(Compute.model_fields)))
    busy_at = 4 * settings.batch_windows
    scale: dict[str, Any] = {"num_replicas": settings.models}
    if settings.max_models > settings.models:
        wanted = max(1, settings.batch_windows // 2)
        scale = {
            "autoscaling_config": {
                "min_replicas": settings.models,
                "max_replicas": settings.max_models,
                "target_ongoing_requests": wanted,
            }
        }
    return Model.options(
        name=name,
        ray_actor_options={"num_cpus": settings.model_cpus, "num_gpus": settings.model_gpus},
        max_ongoing_requests=busy_at,
        max_queued_requests=settings.limits.requests * 2,
        user_config={"bundle": uri, "sha256": card.weights_sha256},
        graceful_shutdown_timeout_s=settings.limits.timeout,
        logging_config=QUIET,
        **scale,
    ).bind(compute, settings.batch_windows, settings.batch_wait_ms)

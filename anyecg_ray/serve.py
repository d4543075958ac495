"""The endpoint on Ray Serve: ingress replicas that read and preprocess, and replicas of each model that predict.

A model's deployment bears its name, not its version: a new version replaces the old one by Serve's rolling update, and
for as long as both are there each answer says which of them computed it (estimating.py). The bundle is the deployment's
user_config, so that a replica takes a new one without a restart and answers with the old one until then.
"""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import ray
from pydantic import Field, field_validator
from ray import serve as rayserve

from anyecg_ray import storage
from anyecg_ray.api import Service, create
from anyecg_ray.backends import Compute
from anyecg_ray.config import InputError, Location
from anyecg_ray.estimating import CHUNK, Served, warm
from anyecg_ray.guard import Guard, write_log
from anyecg_ray.keys import Gate, from_environment
from anyecg_ray.limits import Admission, Limits
from anyecg_ray.machine import cores
from anyecg_ray.model import Card, load_card
from anyecg_ray.model_calls import TOGETHER, Asked, Handle
from anyecg_ray.replicas import CountsKeeper, Model
from anyecg_ray.request_body import BodyReader
from anyecg_ray.request_metrics import Counts, text

APP = "anyecg"


class Application(Compute):
    """Serve models over HTTP: keys, limits, models; how many replicas of each part."""

    bundle: list[Location] = Field(min_length=1)
    """The models: folders or s3:// prefixes, give it once for each. The first is the one that is used by default."""

    auth: bool = True
    """API keys are asked for; --no-auth: they are not, and only this machine is answered."""

    keys: Location | None = None
    """File of the keys (`anyecg keys`), beside those in ANYECG_API_KEYS; it is read again every few seconds."""

    record_prefix: list[Location] = []
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
    """GPUs that Ray sets aside for one of them. 0: a share of those that there are, unless the backend is openvino."""

    batch_windows: int = Field(64, ge=CHUNK)
    """Windows that a model reads at a time, from as many requests as there are."""

    @field_validator("bundle", "record_prefix", mode="before")
    @classmethod
    def _one_or_more(cls, given: Any) -> Any:
        return [given] if isinstance(given, str) else given


class Entry(NamedTuple):
    """What the ingress is told about keys, places of records and limits."""

    auth: bool
    keys: str | None
    given_keys: str
    """Hashes from the environment of whoever deployed the application."""
    prefixes: tuple[str, ...]
    limits: Limits


class Ingress:
    """Reads requests and asks the models."""

    def __init__(self, entry: Entry, keeper: Handle, *handles: Handle) -> None:
        self._entry = entry
        self._gate = Gate(entry.keys, entry.given_keys) if entry.auth else None
        self._keeper = keeper
        self._asked = [Asked(handle) for handle in handles]
        self._models: list[Served] = []
        self._counts = Counts()
        self._admission = Admission(entry.limits)
        self._who = rayserve.get_replica_context().replica_id.unique_id

    def reconfigure(self, config: dict[str, list[dict[str, Any]]]) -> None:
        """Take the cards of the models, in the order of their handles."""
        cards = [Card(**card) for card in config["cards"]]
        for card in cards:
            warm(card)
        self._models = [Served(card, asked) for card, asked in zip(cards, self._asked, strict=True)]

    def __serve_build_asgi_app__(self) -> Guard:
        write_log()
        limits = self._entry.limits
        pool = ThreadPoolExecutor(max(2, cores()))
        reader = BodyReader(limits, self._entry.prefixes, self._admission, pool)
        return create(Service(lambda: self._models, reader, self._gate, self._counts, self._ready, self._metrics))

    async def drain(self) -> int:
        """Take nothing more on. Returns how many requests are still at work."""
        self._admission.ending = True
        return self._admission.requests

    async def _ready(self) -> dict[str, bool]:
        answers = await asyncio.gather(*(asked.answers() for asked in self._asked))
        names = [f"{s.card.model_id}@{s.card.model_version}" for s in self._models]
        return dict(zip(names, answers, strict=True))

    async def _metrics(self) -> bytes:
        return text(await self._keeper.tell.remote(self._who, self._counts.snapshot()))


def application(settings: Application) -> rayserve.Application:
    """The application, as `serve deploy` builds it from a config file and `anyecg serve` from its flags.

    Raises InputError where a bundle, a key or a limit cannot be used.
    """
    cards = [load_card(uri) for uri in settings.bundle]
    names = _names(cards)
    if settings.auth:
        Gate(settings.keys, from_environment())  # so that a server without keys fails here and not in a replica
    models = [_model(*of, settings) for of in zip(names, settings.bundle, cards, strict=True)]
    requests = settings.limits.requests
    ingress = _deployment(
        rayserve.ingress()(Ingress),
        num_replicas=settings.replicas,
        ray_actor_options={"num_cpus": settings.ingress_cpus},
        # above the limit the replica itself answers 503, as a problem and at once
        max_ongoing_requests=4 * requests + 16,
        max_queued_requests=4 * requests + 16,
        graceful_shutdown_timeout_s=settings.limits.timeout,
        user_config={"cards": [card.model_dump(mode="json") for card in cards]},
    )
    keeper = _deployment(CountsKeeper, ray_actor_options={"num_cpus": 0}, max_ongoing_requests=1000).bind()
    rate = settings.limits.rate / settings.replicas
    entry = Entry(
        auth=settings.auth,
        keys=settings.keys and storage.absolute(settings.keys),
        given_keys=from_environment(),
        prefixes=tuple(storage.absolute(p) for p in settings.record_prefix),
        limits=settings.limits.model_copy(update={"rate": rate}),
    )
    return ingress.bind(entry, keeper, *models)


QUIET = {"enable_access_log": False, "log_level": "WARNING"}
"""Serve's own log has the raw path and x-request-id, either of which may name a patient. guard.py writes ours."""


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
        wanted = max(1, settings.batch_windows // TOGETHER // 2)
        scale = {
            "autoscaling_config": {
                "min_replicas": settings.models,
                "max_replicas": settings.max_models,
                "target_ongoing_requests": wanted,
            }
        }
    model = _deployment(
        Model,
        name=name,
        ray_actor_options={"num_cpus": settings.model_cpus, "num_gpus": _gpus(settings)},
        max_ongoing_requests=busy_at,
        max_queued_requests=settings.limits.requests * 2,
        user_config={"bundle": storage.absolute(uri), "sha256": card.weights_sha256},
        graceful_shutdown_timeout_s=settings.limits.timeout,
        **scale,
    )
    return model.bind(compute, settings.batch_windows)


def _gpus(settings: Application) -> float:
    """GPUs for one replica of a model."""
    if settings.model_gpus or settings.backend == "openvino" or not ray.is_initialized():
        return settings.model_gpus
    have = float(ray.cluster_resources().get("GPU", 0.0))
    return min(1.0, have / (len(settings.bundle) * settings.max_models))


ONE_LOOP = {"RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0", "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0"}
"""By default Serve runs its routing and our code on separate event loops, in case our code blocks. It does not: long
work goes to threads. Passing each request from loop to loop would cost a seventh of its time."""


def _deployment(of: Any, ray_actor_options: dict[str, Any], **options: Any) -> Any:
    made: Any = rayserve.deployment(of)
    actor = {**ray_actor_options, "runtime_env": {"env_vars": ONE_LOOP}}
    return made.options(logging_config=QUIET, ray_actor_options=actor, **options)

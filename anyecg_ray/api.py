"""The endpoint's routes, on FastAPI, and what openapi.json says of them.

Nothing here knows Ray: a model is a card and a function that predicts (estimating.Served), so that the same app runs
behind Ray Serve and in a test.
"""

import asyncio
import importlib.util
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel
from pydantic_core import to_json
from starlette.exceptions import HTTPException

from anyecg_ray import __version__, estimating, example, fhir, openapi
from anyecg_ray.estimate_rows import Granularity
from anyecg_ray.estimating import Served
from anyecg_ray.guard import Guard, respond
from anyecg_ray.http_problems import Problem, of_any
from anyecg_ray.keys import Gate
from anyecg_ray.limits import Limits, Rates, in_time
from anyecg_ray.messages import DISCLAIMER, Answer, BatchAnswer, Item, Model, Models, State
from anyecg_ray.model import Card
from anyecg_ray.recipe import Recipe
from anyecg_ray.request_body import BodyReader
from anyecg_ray.request_ecg import Ecg
from anyecg_ray.request_metrics import Counts

FHIR = "application/fhir+json"

AT_ONCE = 8
"""ECGs of one batch in progress at a time."""


@dataclass(frozen=True)
class Service:
    """What the routes work with."""

    models: Callable[[], Sequence[Served]]
    """The first is the default, for requests that name none."""
    reader: BodyReader
    gate: Gate | None
    counts: Counts
    ready: Callable[[], Awaitable[dict[str, bool]]]
    """Which models answer, by name and version."""
    metrics: Callable[[], Awaitable[bytes]]
    """The counts of all processes, as Prometheus reads them."""

    @property
    def limits(self) -> Limits:
        """What one request may ask for."""
        return self.reader.limits


def create(service: Service) -> Guard:
    """The app, inside the guard that every request passes."""
    app = FastAPI(
        title="anyecg", version=__version__, description=openapi.ABOUT, docs_url=None, redoc_url=None,
        responses=openapi.PROBLEMS,
    )  # fmt: skip
    app.router.redirect_slashes = False
    rates = Rates(service.limits.rate)
    _estimates(app, service, rates)
    _models(app, service)
    _examples(app)
    _health(app, service)
    _pages(app)
    for kind in (Problem, HTTPException, RequestValidationError, Exception):
        app.add_exception_handler(kind, _problem)
    app.openapi = lambda: openapi.openapi(app)  # type: ignore[method-assign]
    return Guard(app, service.gate, service.reader.admission, rates, service.counts)


def _estimates(app: FastAPI, service: Service, rates: Rates) -> None:
    told: dict[str, Any] = {"responses": openapi.OF_ESTIMATES, "tags": ["estimates"]}

    @app.post("/v1/estimates", response_model=Answer, openapi_extra=openapi.ONE, **told)
    async def estimates(
        request: Request, model: str | None = None, granularity: Granularity = "span", strip: bool = False
    ) -> Response:
        """Estimate lab indicators from one ECG."""
        _only(request, "model", "granularity", "strip")
        served = _named(service, model)
        async with service.reader.ecg(request) as ecg:
            scored = await _scored(service, ecg, served)
            if _wants_fhir(request):
                return await _fhir(service, scored, granularity, request.state.id)
            drawn = await service.reader.run(lambda: estimating.strip(ecg, scored.card)) if strip else None
            return _json(estimating.answer(request.state.id, scored, granularity, drawn))

    @app.post("/v1/estimates:batch", response_model=BatchAnswer, openapi_extra=openapi.SEVERAL, **told)
    async def batch(request: Request, model: str | None = None, granularity: Granularity = "span") -> Response:
        """Estimate from several ECGs; each has its own status."""
        _only(request, "model", "granularity")
        served = _named(service, model)
        places = asyncio.Semaphore(AT_ONCE)

        async def item(i: int, given: Any) -> Item:
            name = f"{request.state.id}.{i}"
            try:
                # in this order: all clocks start together, so that the timeout is the whole batch's
                async with in_time(service.limits.timeout), places:
                    scored = await _scored(service, await service.reader.read(given), served)
            except Problem as problem:
                return Item.model_construct(status=problem.status, problem=problem.as_json(name))
            return Item.model_construct(status=200, answer=estimating.answer(name, scored, granularity, None))

        async with service.reader.several(request) as ecgs:
            rates.take(request.state.key, len(ecgs), paid=1)  # the guard took one for the request
            items = await asyncio.gather(*(item(i, given) for i, given in enumerate(ecgs)))
            return _json(BatchAnswer.model_construct(items=items, disclaimer=DISCLAIMER))


async def _scored(service: Service, ecg: Ecg, served: Served) -> estimating.Scored:
    scored = await estimating.score(ecg, served, service.reader.pool)
    card = scored.card
    service.counts.ecg(card.model_id, card.model_version, str(scored.windows.status), len(scored.logits))
    return scored


def _only(request: Request, *names: str) -> None:
    """Raises Problem (422) for a parameter that is none of these: a slip must not pass for a default."""
    if any(name not in names for name in request.query_params):
        mend = f"there are {', '.join(names)}"
        raise Problem(
            422, "unknown_parameter", "the query has a parameter that is none of its parameters", mend, "query"
        )


def _named(service: Service, model: str | None) -> Served:
    """The model that a request asks for, as `name` or `name@version`. Raises Problem (404)."""
    for served in service.models():
        if model in (None, served.card.model_id, f"{served.card.model_id}@{served.card.model_version}"):
            return served
    raise Problem(404, "no_such_model", "there is no such model", "GET /v1/models lists those that there are", "model")


def _models(app: FastAPI, service: Service) -> None:
    @app.get("/v1/models", response_model=Models, tags=["models"])
    async def models() -> Models:
        """The models that this server has; the first is the default, for requests that name none."""
        return Models(models=[_model_entry(served.card, i == 0) for i, served in enumerate(service.models())])

    @app.get("/v1/models/{name}", response_model=Card, tags=["models"], responses=openapi.NO_MODEL)
    async def card(name: str) -> Card:
        """A model's card; `name` may be `name@version`."""
        return _named(service, name).card


def _model_entry(card: Card, default: bool) -> Model:
    recipe = Recipe.from_dict(card.recipe)
    return Model(
        name=card.model_id,
        version=card.model_version,
        weights_sha256=card.weights_sha256,
        default=default,
        trained=card.trained,
        leads=list(recipe.leads),
        fs=recipe.fs,
        seconds=recipe.seconds,
        indicators=[i.key for i in card.indicators],
    )


def _examples(app: FastAPI) -> None:
    @app.get("/v1/example", tags=["example"], response_model=dict[str, Any])
    async def as_json() -> Response:
        """A synthetic ECG, of no patient, as POST /v1/estimates takes it."""
        return Response(await asyncio.to_thread(example.as_json), media_type="application/json")

    @app.get("/v1/example.hea", tags=["example"], response_class=Response)
    async def header() -> Response:
        """The same ECG's WFDB header."""
        return Response(await asyncio.to_thread(example.header), media_type="text/plain")

    @app.get("/v1/example.dat", tags=["example"], response_class=Response)
    async def samples() -> Response:
        """The same ECG's signal file."""
        return Response(await asyncio.to_thread(example.samples), media_type="application/octet-stream")


def _health(app: FastAPI, service: Service) -> None:
    @app.get("/healthz", response_model=State, tags=["server"], openapi_extra=openapi.OPEN_TO_ALL)
    async def healthy() -> State:
        """Whether the process is up."""
        return State(status="ok")

    @app.get("/readyz", response_model=State, tags=["server"], openapi_extra=openapi.OPEN_TO_ALL)
    async def ready(response: Response) -> State:
        """Whether every model answers; 503 where one does not, and where the server is ending."""
        service.reader.admission.check_open()
        found = await service.ready()
        response.status_code = 200 if all(found.values()) else 503
        return State(status="ok" if all(found.values()) else "not ready", detail=found)

    @app.get("/metrics", response_class=Response, tags=["server"])
    async def metrics() -> Response:
        """Counts of all processes of this server, in Prometheus' text format."""
        return Response(await service.metrics(), media_type=CONTENT_TYPE_LATEST)


def _pages(app: FastAPI) -> None:
    """The page, the reference of the API, and their files: all of them from this server."""
    page, reference = (Path(str(resources.files("anyecg_ray") / name)) for name in ("page", "reference"))
    found = importlib.util.find_spec("fastapi_offline")
    if found and found.submodule_search_locations:  # Swagger UI's own files
        app.mount("/static/swagger", StaticFiles(directory=Path(found.submodule_search_locations[0]) / "static"))
    app.mount("/static/reference", StaticFiles(directory=reference))
    app.mount("/static", StaticFiles(directory=page))

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return FileResponse(reference / "index.html")

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return FileResponse(page / "index.html")


def _wants_fhir(request: Request) -> bool:
    """Whether the Accept header asks for FHIR before JSON."""
    kinds = [kind.partition(";")[0].strip().lower() for kind in request.headers.get("accept", "").split(",")]
    return FHIR in kinds and "application/json" not in kinds[: kinds.index(FHIR)]


async def _fhir(service: Service, scored: estimating.Scored, granularity: Granularity, request_id: str) -> Response:
    bundle = await service.reader.run(
        lambda: fhir.bundle(estimating.rows(request_id, scored, granularity).to_pylist(), scored.card)
    )
    return Response(to_json(bundle), media_type=FHIR)


def _json(message: BaseModel) -> Response:
    return Response(message.model_dump_json(exclude_unset=True), media_type="application/json")


async def _problem(request: Request, error: Exception) -> Response:
    """Whatever was raised, as a problem."""
    problem = of_any(error)
    request.state.request.code = problem.code
    return respond(problem, request.state.id)

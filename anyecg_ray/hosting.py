"""`anyecg serve`: the application on this machine or on the cluster that RAY_ADDRESS names, until it is told to end."""

import logging
import os
import signal
import sys
import threading
import time
from ipaddress import ip_address
from typing import Any

import ray
from pydantic import Field
from ray import serve as rayserve
from ray.serve.exceptions import RayServeException

from anyecg_ray import cluster
from anyecg_ray.config import InputError, JobError
from anyecg_ray.limits import Limits
from anyecg_ray.serve import APP, QUIET, Application, application
from anyecg_ray.sigterm import Terminated

LONGEST = 4
"""Timeouts one request may use up: its body, unpacking a batch, its answer, and one spare, so that Serve does not cut
it off first with an error of its own."""


class Serve(Application):
    """Serve models over HTTP: an API, and a page at /."""

    host: str = "127.0.0.1"
    """Address to listen at; 0.0.0.0 is every one of this machine's, and needs keys."""

    port: int = Field(8000, ge=1, le=65535)
    """Port to listen at."""


def serve(settings: Serve) -> None:
    """Serve until SIGINT or SIGTERM. Raises InputError, JobError."""
    check(settings)
    logging.getLogger("ray.serve").setLevel(os.environ.get("ANYECG_LOG", "WARNING"))
    with cluster.connected():
        start(settings)
        url = f"http://{settings.host}:{settings.port}"
        print(f"{url} serves {', '.join(settings.bundle)}; Ctrl-C ends it", flush=True)
        if not settings.auth:
            print("without API keys: it answers this machine only", flush=True)
        try:
            threading.Event().wait()
        except (KeyboardInterrupt, Terminated):
            print("ending: requests at work are finished first", flush=True)
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            end(settings.limits)


def start(settings: Serve) -> None:
    """Deploy, or update what is deployed, and wait until it answers. Ray must be connected."""
    app = application(_fitted(settings))
    options = {"host": settings.host, "port": settings.port, "request_timeout_s": LONGEST * settings.limits.timeout}
    try:
        rayserve.start(http_options=options, logging_config=QUIET)
        rayserve.run(app, name=APP, route_prefix="/", blocking=False)
    except (RuntimeError, ray.exceptions.RayError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise JobError(f"the endpoint did not start: {lines[-1] if lines else type(error).__name__}") from None


def end(limits: Limits) -> None:
    """Take nothing more on, finish what is at work, and end. Ray must be connected."""
    # before Serve ends anything: it ends models and ingress together, and a request at work would lose its model
    _drain(LONGEST * limits.timeout)
    try:
        rayserve.delete(APP)
    except TimeoutError:
        print("not all of the endpoint ended within a minute", file=sys.stderr, flush=True)


def _drain(seconds: float) -> None:
    """Return once no ingress replica has a request at work, or the time is over."""
    until = time.monotonic() + seconds
    try:
        ingress = rayserve.get_app_handle(APP)
        # repeated, to reach a replica that starts meanwhile and to ask again one that failed
        while any(ingress.broadcast("drain").results(timeout_s=seconds, return_exceptions=True)):
            if time.monotonic() > until:
                return
            time.sleep(0.2)
    except (TimeoutError, RayServeException):
        return  # there is no ingress, or none that answers: nothing that could be waited for


def check(settings: Serve) -> None:
    """Raise InputError for settings that would let strangers in, or that cannot work here."""
    try:
        loopback = ip_address(settings.host).is_loopback
    except ValueError:
        loopback = settings.host == "localhost"
    if not settings.auth and not loopback:
        raise InputError(f"setting host: {settings.host} with --no-auth; give keys, or leave the host at 127.0.0.1")


def _fitted(settings: Serve) -> Serve:
    """The settings, their CPU shares scaled down to this machine: Serve would wait for ever for CPUs that it lacks."""
    have = ray.cluster_resources().get("CPU", 1.0)
    want = settings.replicas * settings.ingress_cpus + len(settings.bundle) * settings.models * settings.model_cpus
    if want <= have or "RAY_ADDRESS" in os.environ:  # a cluster may grow
        return settings
    share: dict[str, Any] = {
        name: round(getattr(settings, name) * have / want, 3) for name in ("ingress_cpus", "model_cpus")
    }
    return settings.model_copy(update=share)

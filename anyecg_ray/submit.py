"""Run a verb on a Ray cluster through its job API, and follow it: its log lines here, its fate as the exit code.

The package goes with the job, so that the cluster runs what is installed here; job files and flags are checked before
anything is sent. Locations are not sent: a job reads and writes what its machines can reach. The token of a cluster
that asks for one travels in a header, and is never printed.
"""

import asyncio
import json
import logging
import os
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

import aiohttp
from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus, JobSubmissionClient

from anyecg_ray import cli
from anyecg_ray.config import InputError, JobError, Settings, environment_prefix, fields, load, one_line, spelt
from anyecg_ray.warehouses import Sink
from anyecg_ray.warehouses.addresses import SECRET

NOT_SENT = ("submit", "keys", "estimate")
"""Verbs that are for the machine where they are typed: a key would stand in the job's log, the record lies here."""

BEGINNING = 60.0
"""Seconds for which a cluster that cannot take a job yet is asked again."""

CHATTY = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)
"""Loggers of Ray's client, whose lines would come between the job's."""

RECONNECTS = 10
"""Times in a row that the log's connection may break, with seconds between, before following is given up."""


class Submit(Settings):
    """Run a verb on a Ray cluster: `anyecg submit [VERB] [JOB.toml] --address URL`, then the verb's own settings."""

    address: str | None = None
    """URL of the head's dashboard, http://HOST:8265. Left out: RAY_API_SERVER_ADDRESS."""

    follow: bool = True
    """Print the job's lines until it ends, and end as it does. Otherwise only submit."""

    package: Literal["sent", "installed"] = "sent"
    """sent: the job runs this machine's anyecg_ray. installed: it runs the cluster's."""

    submission_id: str | None = None
    """Name of the job on the cluster. Left out: Ray makes one up."""


class Command(NamedTuple):
    """What is to run where."""

    settings: Submit
    verb: str
    job: str | None
    """The job file."""
    flags: list[str]
    """The verb's own."""


def parse(arguments: Sequence[str]) -> Command:
    """Take `[VERB] [JOB.toml] [--address …] [the verb's settings]` apart and check both parts.

    Raises InputError where either verb would not take its settings, SystemExit for --help.
    """
    own, rest = _apart(arguments)
    if rest[:1] in (["-h"], ["--help"]):
        own.append("--help")
    settings = load(Submit, "submit", own)
    verb = rest.pop(0) if rest and not rest[0].startswith("-") and not rest[0].endswith(".toml") else None
    job = rest.pop(0) if rest and rest[0].endswith(".toml") else None
    if verb is None and job is None:
        raise InputError("say what to run: anyecg submit JOB.toml --address http://HOST:8265, or anyecg submit VERB …")
    verb = verb or verb_of(str(job))
    if verb in NOT_SENT or verb not in cli.VERBS:
        raise InputError(f"{verb} is no verb to submit; `anyecg --help` lists the verbs")
    _refuse_environment(verb)
    found = cli.settings_of(verb, [job, *rest] if job else rest)
    _refuse_secrets(found, rest)
    return Command(settings, verb, job, _absolute(found, rest))


def verb_of(job: str) -> str:
    """The verb that a job file is named after: `backfill` of jobs/backfill-nightly.toml."""
    stem = Path(job).stem
    for verb in sorted(cli.VERBS, key=len, reverse=True):
        if stem.startswith(verb):
            return verb
    raise InputError(f"{job}: not named after a verb; say which: anyecg submit VERB {job} …")


def submit(command: Command) -> None:
    """Submit the job, and unless told otherwise follow it.

    Raises InputError where the cluster cannot be reached or refuses, JobError where the job fails or is stopped.
    """
    address = _address(command.settings)
    if "ANYECG_LOG" not in os.environ:
        for name in CHATTY:
            logging.getLogger(name).setLevel(logging.ERROR)
    client = _connected(address)
    with tempfile.TemporaryDirectory() as folder:
        environment: dict[str, Any] = {"working_dir": folder}
        if command.job:
            shutil.copy(command.job, folder)
        if command.settings.package == "sent":
            environment["py_modules"] = [str(Path(__file__).parent)]
        job = _taken(
            client,
            entrypoint=entrypoint(command),
            submission_id=command.settings.submission_id,
            runtime_env=environment,
        )
    where = f"{job} --address {address}"
    print(f"anyecg: {job} runs {entrypoint(command)}", file=sys.stderr)
    if not command.settings.follow:
        print(f"anyecg: to follow it: ray job logs --follow {where}", file=sys.stderr)
        return
    try:
        _follow(client, job)
        _judge(client, job)
    except (OSError, RuntimeError):
        raise JobError(f"the connection to the cluster broke; the job may go on: ray job status {where}") from None
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"the job goes on; to follow it: ray job logs --follow {where}; to stop it: ray job stop {where}"
        ) from None


def _taken(client: JobSubmissionClient, **job: Any) -> str:
    """The id of the job, once the cluster has it. One that has just begun has nobody yet who takes jobs."""
    until = time.monotonic() + BEGINNING
    while True:
        try:
            return str(client.submit_job(**job))
        except RuntimeError as error:
            if "No available agent" not in str(error) or time.monotonic() > until:
                raise JobError(f"the cluster did not take the job: {error}") from None
        time.sleep(1)


def entrypoint(command: Command) -> str:
    """The line that the cluster's shell runs; the job file lies in the job's working folder."""
    job = [Path(command.job).name] if command.job else []
    return shlex.join(["python", "-m", "anyecg_ray", command.verb, *job, *command.flags])


def _apart(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Submit's own flags, and the rest."""
    own: list[str] = []
    rest: list[str] = []
    names = {f"--{name}" for name in fields(Submit)} | {"--no-follow"}
    left = list(arguments)
    while left:
        word = left.pop(0)
        name = word.split("=")[0]
        (own if name in names else rest).append(word)
        if name in names - {"--follow", "--no-follow"} and "=" not in word and left:
            own.append(left.pop(0))
    return own, rest


def _refuse_environment(verb: str) -> None:
    """A setting in this shell's environment would count here and not on the cluster."""
    prefix = environment_prefix(verb)
    for name in os.environ:
        if name.startswith(prefix):
            raise InputError(f"{name} is set here and does not travel to the cluster; unset it and give a flag instead")


def _refuse_secrets(settings: Settings, flags: list[str]) -> None:
    sink = getattr(settings, "sink", Sink())
    for name in sink.properties:
        if SECRET.search(name) and any(name in word for word in flags):
            raise InputError(
                f"setting sink.properties: {name} on this line would stand in the job's entrypoint, for all to read; "
                "put it into the environment of the cluster's machines, or into the job file"
            )


def _absolute(settings: Settings, flags: list[str]) -> list[str]:
    """The flags with all relative locations made absolute, the job file's too: a job's own folder passes away."""
    ours: list[str] = []
    for flag, value in _changed(settings, settings.absolute()):
        if isinstance(value, list):  # one that is given twice would be a list of all
            flags = _without(flags, flag)
        ours += [word for one in (value if isinstance(value, list) else [value]) for word in (flag, one)]
    if ours:
        told = "these are paths of this machine; the cluster's machines must share them, or take s3://… instead"
        print(f"anyecg: {told}: {shlex.join(ours)}", file=sys.stderr)
    return [*flags, *ours]


def _changed(before: Settings, after: Settings, prefix: str = "--") -> Iterator[tuple[str, str | list[str]]]:
    """Flags and values of what differs."""
    for name in type(before).model_fields:
        old, new, flag = getattr(before, name), getattr(after, name), prefix + spelt(type(before), name)
        if isinstance(old, Settings):
            yield from _changed(old, new, f"{flag}.")
        elif isinstance(old, dict) and old != new:
            yield flag, json.dumps({k: v for k, v in new.items() if old[k] != v})
        elif old != new:
            yield flag, new


def _without(flags: list[str], name: str) -> list[str]:
    """The flags without one of them and its value."""
    kept = zip(["", *flags], flags, strict=False)
    return [word for before, word in kept if name not in (before, word) and not word.startswith(f"{name}=")]


def _address(settings: Submit) -> str:
    address = settings.address or os.environ.get("RAY_API_SERVER_ADDRESS", "")
    if urlsplit(address).scheme not in ("http", "https"):
        raise InputError(f"setting address: {address or 'is missing'}; give the dashboard's URL, as http://HOST:8265")
    return address.rstrip("/")


def _connected(address: str) -> JobSubmissionClient:
    # Ray would let these override what was asked for
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
        os.environ.pop(name, None)
    token = _token()
    try:
        return JobSubmissionClient(address, headers={"Authorization": f"Bearer {token}"} if token else None)
    except AuthenticationError:
        told = "does not take this token" if token else "asks for a token"
        raise InputError(f"{address} {told}; set RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH to a file with it") from None
    except (ConnectionError, RuntimeError) as error:
        raise InputError(
            f"{address}: no Ray dashboard answers there ({one_line(error, 200)}); is port 8265 forwarded?"
        ) from None


def _token() -> str | None:
    """Where Ray itself would look for it, in Ray's order; Ray looks only where RAY_AUTH_MODE=token."""
    if token := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return token
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named).expanduser() if named else Path.home() / ".ray" / "auth_token"
    try:
        return path.read_text().strip() or None
    except OSError as error:
        if named:
            raise InputError(f"RAY_AUTH_TOKEN_PATH: {path}: {error.strerror}") from None
        return None


def _follow(client: JobSubmissionClient, job: str) -> None:
    """Print the job's log as it grows, to its end. A broken connection is made again, and goes on where it was.

    Raises ConnectionError where it stays broken.
    """
    shown, broken = 0, 0
    while broken < RECONNECTS:
        before = shown
        try:
            shown = asyncio.run(_tail(client, job, shown))
            return
        except _BrokenError as error:
            shown = error.shown
        broken = 0 if shown > before else broken + 1
        time.sleep(min(broken, 5))
    raise ConnectionError


class _BrokenError(Exception):
    def __init__(self, shown: int) -> None:
        super().__init__(shown)
        self.shown = shown


async def _tail(client: JobSubmissionClient, job: str, shown: int) -> int:
    """Print the log but for its first `shown` characters; returns its length."""
    length = 0
    try:
        async for lines in client.tail_job_logs(job):
            sys.stdout.write(lines[max(0, shown - length) :])
            sys.stdout.flush()
            length += len(lines)
            shown = max(shown, length)
    except (RuntimeError, OSError, aiohttp.ClientError):
        raise _BrokenError(shown) from None
    return shown


def _judge(client: JobSubmissionClient, job: str) -> None:
    """Raise JobError unless the job succeeded. The log may end a little before the job is known to have."""
    until = time.monotonic() + 60
    info = client.get_job_info(job)
    while not info.status.is_terminal() and time.monotonic() < until:
        time.sleep(0.2)
        info = client.get_job_info(job)
    if info.status is JobStatus.SUCCEEDED:
        return
    if info.status is JobStatus.FAILED and info.driver_exit_code is not None:
        raise JobError(f"{job} failed with exit code {info.driver_exit_code}; its last lines say why")
    if info.status is JobStatus.FAILED:  # it never started: the message is all there is
        raise JobError(f"{job} failed: {(info.message or 'no reason was given')[-500:]}")
    raise JobError(f"{job} is {info.status.value.lower()}")

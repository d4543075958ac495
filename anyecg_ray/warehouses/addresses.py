"""Addresses of catalogs and databases, of which people and logs see no user, no password and no parameter.

An address is a URL (https://…, sqlite:///…, postgresql+psycopg2://…) or libpq's keyword = value; a folder is none.
A password in one is refused, so that it stands in no job file and no command line. What libraries say of a failure
may hold whatever they were given: it is scrubbed of all that is secret here before it is told.
"""

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote_plus

from anyecg_ray.config import absolute

SECRET = re.compile(
    r"(?:passw|pwd|secret|token|credential|authorization|signature|scram_|(?:api|access|account).?key)", re.IGNORECASE
)
"""Names of parameters and variables whose values are secret. `passfile` names a file: the right place for one."""

WRITTEN_DOWN = frozenset(
    {"type", "uri", "warehouse", "prefix", "py-io-impl", "py-catalog-impl", "init_catalog_tables"}
    | {"client.region", "glue.region", "glue.endpoint", "glue.id", "header.x-iceberg-access-delegation"}
    | {"s3.region", "s3.endpoint", "s3.force-virtual-addressing"}
    | {"rest.sigv4-enabled", "rest.signing-region", "rest.signing-name"}
    | {"aws_region", "aws_default_region", "aws_endpoint_url", "aws_allow_http", "aws_virtual_hosted_style_request"}
    | {"aws_s3_allow_unsafe_rename", "aws_conditional_put", "timeout", "connect_timeout"}
)
"""Names of properties whose values may stand in run manifests; of all others nobody knows that they are no secret."""

TOLD = ("host", "hostaddr", "port", "dbname", "service")
"""Keywords of libpq that tell which database it is."""

SHORTEST = 6
"""Characters of a secret that is looked for in texts: a shorter one may be any word."""

_WORD = re.compile(r"([\w%]+)\s*=\s*('(?:\\.|[^'\\])*'|(?:\\.|[^\s'\\])*)", re.DOTALL)
_URL = re.compile(r"([A-Za-z][\w+.:-]*)://(.*)", re.DOTALL)
_GIVEN = re.compile(
    rf"([\w.-]*{SECRET.pattern}[\w.-]*[\"']?\s*[=:]\s*)('[^']*'|\"[^\"]*\"|(?:Bearer |Basic )?\S+)", re.IGNORECASE
)
"""A secret as a text gives it: its name, and the value."""


def holds_secret(address: str) -> bool:
    """Whether a password, a token or a key stands in an address."""
    scheme, user, rest = _parts(address)
    names = _parameters(rest) if scheme else (name for name, _ in _WORD.findall(address))
    return bool(user.partition(":")[2]) or any(SECRET.search(name) for name in names)


def shown(address: str) -> str:
    """An address for people to read: where it is, and neither who asks nor how."""
    scheme, _, rest = _parts(address)
    if not scheme and "=" in address:
        return " ".join(f"{name}={value}" for name, value in _WORD.findall(address) if name in TOLD) or "a database"
    return scheme + (re.split("[?#]", rest)[0] if scheme else rest)


def at_home(address: str) -> str:
    """An address that is the same in every folder: the path of SQLite's file is made absolute."""
    match = re.fullmatch(r"(sqlite[^:]*:///)([^?]+)(.*)", address)
    if not match or match[2] == ":memory:":
        return address
    return match[1] + absolute(match[2]) + match[3]


def s3_endpoint() -> str | None:
    """The endpoint that the AWS variables name, for libraries that do not read them by themselves."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")


def line(error: Exception, properties: Mapping[str, str]) -> str:
    """What a library says of a failure, in one short line without secrets. properties: those of the sink."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    for secret in sorted(_secrets(properties), key=len, reverse=True):
        text = text.replace(secret, "…")
    text = re.sub(r"://[^\s/@]*@", "://", text)
    return _GIVEN.sub(r"\1…", text)[:200]


def written(properties: Mapping[str, Any]) -> dict[str, Any]:
    """Properties to write down: only values that are known to be no secret."""
    return {k: shown(str(v)) if k.lower() in WRITTEN_DOWN else "…" for k, v in properties.items()}


def _parts(address: str) -> tuple[str, str, str]:
    """(scheme://, user:password, the rest); no scheme where it is no URL.

    Libraries do not agree where a password ends that holds / or ?: of a database's URL all up to the last @ is one.
    """
    match = _URL.fullmatch(address)
    if not match:
        return "", "", address
    scheme, rest = match.groups()
    if scheme.startswith(("sqlite", "file")):
        return f"{scheme}://", "", rest
    ends = re.search("[/?#]", rest) if scheme in ("http", "https", "s3", "s3a") else None
    user = rest[: ends.start() if ends else None].rpartition("@")[0]
    return f"{scheme}://", user, rest[len(user) + 1 :] if user else rest


def _parameters(rest: str) -> Iterator[str]:
    """Names in a URL's query, as libraries decode them."""
    return (unquote_plus(pair.partition("=")[0]) for pair in re.split("[?&;#]", rest)[1:])


def _secrets(properties: Mapping[str, str]) -> Iterator[str]:
    theirs = (v for name, v in os.environ.items() if SECRET.search(name) and name not in ("PWD", "OLDPWD"))
    ours = (v for name, v in properties.items() if name.lower() not in WRITTEN_DOWN)
    for value in (*theirs, *ours):
        # "Bearer …": the library may leave the first word out
        yield from (v for v in (value, *value.split()) if len(v) >= SHORTEST)

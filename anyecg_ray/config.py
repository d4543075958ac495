"""Job files and flags become typed settings; a wrong one becomes one line that says how to mend it.

A setting is looked for in the flags, then in the environment (`ANYECG_<VERB>_<FIELD>`), then in the
job file, then in the model's default. Each verb keeps its settings beside its code; this module only
reads them, so it needs neither ray nor torch.
"""

import difflib
import hashlib
import json
import os
import re
import tomllib
from collections.abc import Iterator, Sequence
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Self, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_settings import (
    BaseSettings,
    CliSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)
from pydantic_settings.exceptions import SettingsError


class InputError(Exception):
    """What the user gave cannot be used. The message is one line: the file or field, and the mend."""


class JobError(Exception):
    """The job could not be finished. The message is one line."""


class _Place(Enum):
    PATH = "a folder, a file or s3://…"
    PATH_OR_WORD = "the same, or a word"


Location = Annotated[str, _Place.PATH]
"""Type of a setting that names a folder, a file or s3://…: `anyecg submit` makes it absolute."""

LocationOrWord = Annotated[str, _Place.PATH_OR_WORD]
"""Type of a setting that may also be a word: it is a location where something of that name is there."""


class Settings(BaseModel):
    """Base of every verb's settings: an unknown key is an error, docstrings under fields are the help."""

    model_config = ConfigDict(
        extra="forbid",
        use_attribute_docstrings=True,
        frozen=True,
        protected_namespaces=(),
        populate_by_name=True,
        allow_inf_nan=False,
    )

    def absolute(self) -> Self:
        """The same with every relative location made absolute: for a process that starts in another folder."""
        own = {name: _absolute(getattr(self, name), place_of(type(self), name)) for name in type(self).model_fields}
        return self.model_copy(update=own)


def place_of(model: type[BaseModel], name: str) -> _Place | None:
    """How a setting is marked as a location; None where it is none."""
    field = model.model_fields[name]
    return next((m for m in (*field.metadata, *_marks(field.annotation)) if isinstance(m, _Place)), None)


def _marks(annotation: Any) -> Iterator[Any]:
    yield annotation
    for part in get_args(annotation):
        yield from _marks(part)


def _absolute(value: Any, place: _Place | None) -> Any:
    if isinstance(value, Settings):
        return value.absolute()
    if isinstance(value, list | tuple):
        return [_absolute(v, place) for v in value] if place else value
    if not isinstance(value, str) or (place is _Place.PATH_OR_WORD and not os.path.exists(value)):
        return value
    return absolute(value) if place else value


def absolute(place: str) -> str:
    """A folder or file whatever the working folder; a URL, or nothing, stays as it is."""
    return place if not place or "://" in place else os.path.abspath(os.path.expanduser(place))


S = TypeVar("S", bound=Settings)


def load(model: type[S], verb: str, arguments: Sequence[str]) -> S:
    """Settings of one verb from `[JOB.toml] [--section.key value …]`.

    Raises InputError where a key is unknown, missing or of the wrong type, SystemExit for --help.
    """
    arguments = list(arguments)
    _check_environment(model, verb)
    job = arguments.pop(0) if arguments and arguments[0].endswith(".toml") else None
    loader = _loader(model, verb, _read_job(job, model) if job else {})
    try:
        flags: CliSettingsSource[Any] = CliSettingsSource(loader, cli_parse_args=arguments)
        found = loader(_cli_settings_source=flags)  # type: ignore[call-arg]
    except SettingsError as error:
        raise InputError(_explain_flag(str(error), model, verb)) from None
    except ValidationError as error:
        raise InputError(_explain_value(error, model, verb, job)) from None
    return model(**{name: getattr(found, name) for name in model.model_fields})  # settings, rid of their sources


def environment_prefix(verb: str) -> str:
    """What the variables of a verb's settings begin with."""
    return f"ANYECG_{verb.upper().replace('-', '_')}_"


def _check_environment(model: type[Settings], verb: str) -> None:
    """Raises InputError for a variable that names no setting; of nested ones pydantic refuses the rest itself."""
    known = {name for name, field in model.model_fields.items() if field.alias is None}
    for variable in os.environ:
        key = variable.upper().removeprefix(environment_prefix(verb)).lower()
        if variable.upper().startswith(environment_prefix(verb)) and key.partition("__")[0] not in known:
            flag = key.replace("__", ".").replace("_", "-")
            raise InputError(f"environment: unknown setting {variable}; {_nearest(flag, model, verb)}")


def one_line(error: object, most: int) -> str:
    """What an error says, in one line of at most so many letters; its kind where it says nothing."""
    return " ".join(str(error).split())[:most] or type(error).__name__


def fingerprint(content: Any) -> str:
    """First 16 hex digits of the SHA-256 of `content` as canonical JSON: a name that changes with any value."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def fields(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every key of the settings, nested ones with a dot, as flags spell them."""
    for name, field in model.model_fields.items():
        key = prefix + spelt(model, name)
        nested = _model_in(field.annotation)
        if nested is None:
            yield key
        else:
            yield from fields(nested, key + ".")


def spelt(model: type[BaseModel], name: str) -> str:
    """A field's name as its flag spells it."""
    return (model.model_fields[name].alias or name).replace("_", "-")


def _model_in(annotation: Any) -> type[BaseModel] | None:
    candidates = get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)


def _loader(model: type[S], verb: str, job: dict[str, Any]) -> type[BaseSettings]:
    """The settings with the sources attached; made per call so that building settings in code stays free of them."""

    class Loader(model, BaseSettings):  # type: ignore[valid-type, misc]
        __doc__ = model.__doc__
        model_config = SettingsConfigDict(
            env_prefix=environment_prefix(verb),
            env_nested_delimiter="__",
            nested_model_default_partial_update=True,
            cli_prog_name=f"anyecg {verb}",
            cli_kebab_case=True,
            cli_implicit_flags=True,
            cli_hide_none_type=True,
            cli_avoid_json=True,
            cli_exit_on_error=False,
        )

        @classmethod
        def settings_customise_sources(  # type: ignore[override]
            cls, settings_cls: type[BaseSettings], env_settings: PydanticBaseSettingsSource, **_: Any
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return env_settings, InitSettingsSource(settings_cls, init_kwargs=job)

    Loader.__name__ = Loader.__qualname__ = model.__name__
    return Loader


def _read_job(path: str, model: type[Settings]) -> dict[str, Any]:
    try:
        text = Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise InputError(f"{path}: cannot read this job file ({reason}); give an existing TOML file") from None
    try:
        return _as_fields(tomllib.loads(text), model)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: not a TOML file: {error}") from None


def _as_fields(table: dict[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    """Keys of a job file may be spelt like flags (`max-span`) or like fields (`max_span`); a table of the user's own
    names (`sink.properties`) stays as it is."""
    found = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        nested = _model_in(model.model_fields[name].annotation) if name in model.model_fields else None
        found[name] = _as_fields(value, nested) if nested and isinstance(value, dict) else value
    return found


def _explain_flag(message: str, model: type[Settings], verb: str) -> str:
    message = message.removeprefix("error parsing CLI: ")
    unknown = message.removeprefix("unrecognized arguments: ").split()
    if message.startswith("unrecognized arguments") and unknown[0].startswith("--"):
        return f"unknown setting {unknown[0].split('=')[0]}; {_nearest(unknown[0], model, verb)}"
    return f"{message}; `anyecg {verb} --help` lists the settings"


def _explain_value(error: ValidationError, model: type[Settings], verb: str, job: str | None) -> str:
    first = error.errors(include_url=False)[0]
    key = ".".join(str(part).replace("_", "-") for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"{job or 'environment'}: unknown setting {key}; {_nearest(key, model, verb)}"
    if first["type"] == "missing":
        return f"setting {key} is missing: give --{key} or name it in the job file"
    reason = first["msg"].removeprefix("Value error, ")
    return f"setting {key or verb}: {reason}" + (f" (got {first['input']!r})" if key and _is_plain(first) else "")


def _is_plain(wrong: Any) -> bool:
    """Whether a wrong value may be told: neither an address nor a table, which may hold a password."""
    return "sink" not in wrong["loc"] and not re.search(r"://|=", str(wrong["input"]))


def _nearest(key: str, model: type[Settings], verb: str) -> str:
    match = difflib.get_close_matches(key.lstrip("-").split("=")[0], list(fields(model)), n=1)
    return f"did you mean --{match[0]}?" if match else f"`anyecg {verb} --help` lists the settings"

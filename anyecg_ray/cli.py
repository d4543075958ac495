"""One subcommand per job: read its settings, run it, and turn what goes wrong into an exit code.

0: done. 1: the job failed. 2: bad usage or bad input, told in one line on stderr. A verb's module is
imported only when the verb is called, so that `anyecg --help` needs neither ray nor torch.
"""

import difflib
import importlib
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from anyecg_ray import __version__
from anyecg_ray.config import InputError, JobError, load
from anyecg_ray.sigterm import Terminated, on_sigterm


class Verb(NamedTuple):
    """Where a verb lives: `module.function(module.settings)`."""

    module: str
    settings: str
    function: str
    help: str


VERBS = {
    "demo": Verb("demo", "Demo", "demo", "the whole way on a synthetic archive, with a picture"),
    "synth": Verb("synthetic", "Synth", "synth", "write a synthetic archive in MC-MED's file tree"),
    "manifest": Verb("manifest", "Manifest", "manifest", "index an archive: one row per span of work"),
    "pack": Verb("pack", "Pack", "pack", "put an archive's many small files into few large ones, to be read again"),
    "import-weights": Verb("weights", "ImportWeights", "import_weights", "turn a published checkpoint into a bundle"),
    "init": Verb("weights", "Init", "init", "make an untrained bundle for tests, demos and benchmarks"),
    "prepare": Verb("prepare", "Prepare", "prepare", "label an archive's windows and store them for training"),
    "train": Verb("train", "Train", "train", "train a network on segments, from weights or from scratch"),
    "evaluate": Verb("evaluate", "Evaluate", "evaluate", "say how good a bundle is, with a report to read"),
    "backfill": Verb("backfill", "Backfill", "backfill", "score a manifest: one row per span, whatever happens"),
    "status": Verb("status", "ShowStatus", "status", "say how far a back-fill is"),
    "publish": Verb("delivery", "Publish", "publish", "carry staged estimates into a warehouse, or a second one"),
    "export": Verb("export", "Export", "export", "write estimates as FHIR, OMOP or MEDS"),
    "submit": Verb("submit", "Submit", "submit", "run one of these on a Ray cluster, and follow it"),
    "serve": Verb("hosting", "Serve", "serve", "answer over HTTP: an API, and a page to try it on"),
    "estimate": Verb("client", "Estimate", "ask", "ask an endpoint for the estimates of one record"),
    "keys": Verb("keys", "Keys", "keys", "make, revoke and list the API keys of serve"),
    "bench": Verb("bench", "Bench", "bench", "measure the stages, alone and end to end"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `anyecg VERB …` and return its exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_usage())
        return 0 if arguments else 2
    if arguments[0] in ("-V", "--version"):
        print(f"anyecg {__version__}")
        return 0
    on_sigterm()
    try:
        logging.basicConfig(level=_level(), format="%(levelname)s %(name)s: %(message)s")
        return _run(arguments[0], arguments[1:])
    except InputError as error:
        return _fail(2, error)
    except JobError as error:
        return _fail(1, error)
    except KeyboardInterrupt as error:
        return _fail(130, str(error) or f"interrupted; {_AGAIN}")
    except Terminated:
        return _fail(143, f"asked to end; {_AGAIN}")
    except BrokenPipeError:  # `anyecg … | head`
        sys.stderr.close()
        return 1


_AGAIN = "nothing is half done, and the same command goes on with what is left"

_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


def _level() -> str:
    asked = os.environ.get("ANYECG_LOG", "WARNING").upper()
    if asked not in _LEVELS:
        raise InputError(f"environment: ANYECG_LOG is {asked}; give one of {', '.join(_LEVELS)}")
    return asked


def _run(name: str, arguments: list[str]) -> int:
    verb = VERBS.get(name)
    if verb is None:
        near = difflib.get_close_matches(name, VERBS, n=1)
        raise InputError(
            f"unknown verb {name}; " + (f"did you mean {near[0]}?" if near else "`anyecg --help` lists them")
        )
    # a thread that Ray Data leaves behind may come to Ray after it was shut down, and would start another one
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
    # PyTorch's threads that wait for each other would spin, and where anything else runs beside them spin in its way
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    settings = settings_of(name, arguments)
    getattr(importlib.import_module(f"anyecg_ray.{verb.module}"), verb.function)(settings)
    return 0


def settings_of(name: str, arguments: Sequence[str]) -> Any:
    """What a verb's function takes. `submit` wraps another verb's command line and takes it apart itself."""
    verb = VERBS[name]
    module = importlib.import_module(f"anyecg_ray.{verb.module}")
    if hasattr(module, "parse"):
        return module.parse(arguments)
    return load(getattr(module, verb.settings), name, arguments)


def _fail(code: int, message: object) -> int:
    print(f"anyecg: {' '.join(str(message).split())}", file=sys.stderr)
    return code


def _usage() -> str:
    lines = ["usage: anyecg VERB [JOB.toml] [--section.key value ...]", ""]
    lines += [f"  {name:15} {verb.help}" for name, verb in VERBS.items()]
    return "\n".join([*lines, "", "`anyecg VERB --help` lists a verb's settings."])

"""The command itself: exit codes, one line on stderr, and no heavy import where none is needed."""

import subprocess
import sys

import pytest

from anyecg_ray import __version__
from anyecg_ray.cli import VERBS, main


def test_usage_lists_every_verb(capsys):
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(verb in printed for verb in VERBS)


def test_version(capsys):
    assert main(["--version"]) == 0
    assert __version__ in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["backfil"], ["backfill", "--manifst", "x"], ["backfill", "absent.toml"], []])
def test_bad_usage_is_exit_2_and_one_line(arguments, capsys):
    assert main(arguments) == 2
    told = capsys.readouterr().err
    assert told.count("\n") <= 1
    assert "Traceback" not in told


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb, capsys):
    with pytest.raises(SystemExit) as caught:
        main([verb, "--help"])
    assert caught.value.code == 0
    assert f"anyecg {verb}" in capsys.readouterr().out


def test_importing_the_package_imports_neither_ray_nor_torch():
    code = "import sys, anyecg_ray, anyecg_ray.cli; print(sorted({'ray', 'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

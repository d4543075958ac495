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


def test_the_level_of_the_log(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("ANYECG_LOG", "debug")
    assert main(["status", "--out", str(tmp_path)]) == 2
    assert "no back-fill here" in capsys.readouterr().err
    monkeypatch.setenv("ANYECG_LOG", "loud")
    assert main(["status", "--out", str(tmp_path)]) == 2
    assert "ANYECG_LOG is LOUD; give one of DEBUG" in capsys.readouterr().err


def test_a_manifest_that_is_interrupted_says_one_line(tmp_path):
    for i in range(3000):
        (tmp_path / f"{i}.hea").write_text(f"{i} 1 500 5000\n{i}.dat 16 200 16 0 0 0 0 II\n")
    code = (
        "import sys; from anyecg_ray import cli, manifest_file; group = manifest_file._Writer.group\n"
        "def stop(*a): group(*a); raise KeyboardInterrupt\n"
        "manifest_file._Writer.group = stop; sys.exit(cli.main(sys.argv[1:]))"
    )
    arguments = ["manifest", "--archive", str(tmp_path), "--out", str(tmp_path / "m.parquet"), "--workers", "0"]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == 130
    assert done.stderr.splitlines()[-1].startswith("anyecg: interrupted; nothing is half done")
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("*m.parquet*"))

"""What the README, the docs and the job files say is what the program does."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest

from anyecg_ray import cli, config, schema
from anyecg_ray.cli import main
from anyecg_ray.schema import Status

ROOT = Path(__file__).parent.parent
DOCS = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])


def settings(verb):
    entry = cli.VERBS[verb]
    return getattr(__import__(f"anyecg_ray.{entry.module}", fromlist=["x"]), entry.settings)


def commands(page):
    """Lines `anyecg …` of the page's shell blocks."""
    blocks = re.findall(r"```(?:sh|text)\n(.*?)```", page.read_text(), re.S)
    lines = [line.split("#")[0].strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [line.removeprefix("anyecg ") for line in lines if line.startswith("anyecg ")]


COMMANDS = [(page.name, line) for page in DOCS for line in commands(page)]


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_every_command_is_one(page, line, monkeypatch):
    monkeypatch.chdir(ROOT)
    verb, *flags = shlex.split(line)
    assert verb in cli.VERBS, f"{page}: no verb {verb}"
    cli.settings_of(verb, flags)


@pytest.mark.parametrize("job", sorted((ROOT / "jobs").glob("*.toml")), ids=lambda p: p.name)
def test_every_job_file_is_accepted(job):
    verb = next(v for v in sorted(cli.VERBS, key=len, reverse=True) if job.stem.startswith(v))
    extra = ["model"] if verb == "bench" else []
    config.load(settings(verb), verb, [str(job), *extra])
    assert set(tomllib.loads(job.read_text())) <= set(settings(verb).model_fields)


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_has_help_for_every_setting(verb, capsys):
    with pytest.raises(SystemExit) as ended:
        main([verb, "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: anyecg {verb}")
    for name, field in settings(verb).model_fields.items():
        assert field.description, f"{verb}: {name} has no docstring"


def test_the_quickstart_runs(tmp_path, monkeypatch, capsys):
    """From the archive to the table; the two commands of step 1 are what runs these tests."""
    monkeypatch.chdir(tmp_path)
    lines = [line for line in commands(ROOT / "docs" / "quickstart.md") if "jobs/" not in line]
    assert [line.split()[0] for line in lines] == ["synth", "manifest", "init", "backfill"]
    for line in lines:
        line = line.replace("--encounters 24 --minutes 2", "--encounters 6 --minutes 1")
        assert main(shlex.split(line)) == 0, line
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "quickstart.md").read_text(), re.S)
    exec(compile(code, "quickstart", "exec"), {})
    assert "potassium_high" in capsys.readouterr().out


@pytest.mark.parametrize("table", ["MANIFEST", "STAGING", "ECG_LAB_ESTIMATE", "ENCOUNTERS", "LABELS"])
def test_the_data_contract_names_every_column_and_status(table):
    page = (ROOT / "docs" / "data-contract.md").read_text()
    for field in getattr(schema, table):
        assert f"`{field.name}`" in page, field.name
    for status in Status:
        assert f"`{status}`" in page


def test_links_lead_somewhere():
    for page in DOCS:
        for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_two_commands_of_the_readme_are_targets_of_the_makefile():
    makefile = (ROOT / "Makefile").read_text()
    for target in ("demo", "test"):
        assert f"make {target}" in (ROOT / "README.md").read_text()
        assert re.search(rf"^{target}: ", makefile, re.M)
    assert "make test" in (ROOT / ".ci" / "run").read_text()

"""Flags over environment over job file over default; and one helpful line where something is wrong."""

import pytest

from anyecg_ray.config import InputError, Settings, fingerprint, load


class Inner(Settings):
    batch_size: int = 32
    """Windows to a batch."""
    their_own: dict[str, str] = {}
    """Names and values of the user's own."""


class Job(Settings):
    """Do something."""

    manifest: str
    """Where it is."""
    max_span: float = 600
    """Seconds."""
    inner: Inner = Inner()
    """How."""
    dry_run: bool = False
    """Say only."""


@pytest.fixture
def job_file(tmp_path):
    path = tmp_path / "job.toml"
    path.write_text('manifest = "m"\nmax-span = 5\n[inner]\nbatch_size = 4\n')
    return str(path)


def test_job_file_is_read_with_either_spelling(job_file):
    assert load(Job, "job", [job_file]) == Job(manifest="m", max_span=5, inner=Inner(batch_size=4))


def test_keys_that_are_the_user_s_own_stay_as_they_are(tmp_path):
    path = tmp_path / "job.toml"
    path.write_text('manifest = "m"\n[inner.their-own]\n"header.X-A-B" = "c"\n')
    assert load(Job, "job", [str(path)]).inner.their_own == {"header.X-A-B": "c"}


def test_flag_beats_environment_beats_job_file(job_file, monkeypatch):
    monkeypatch.setenv("ANYECG_JOB_MAX_SPAN", "7")
    assert load(Job, "job", [job_file]).max_span == 7
    assert load(Job, "job", [job_file, "--max-span", "9"]).max_span == 9


def test_nested_flag_keeps_its_siblings_and_booleans_are_switches(job_file):
    settings = load(Job, "job", [job_file, "--inner.batch-size=8", "--dry-run"])
    assert settings.inner.batch_size == 8
    assert settings.dry_run


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--manifst", "x"], "unknown setting --manifst; did you mean --manifest?"),
        (["--manifest", "x", "--inner.batchsize", "3"], "did you mean --inner.batch-size?"),
        (["--manifest", "x", "--max-span", "long"], "setting max-span: "),
        ([], "setting manifest is missing: give --manifest or name it in the job file"),
        (["absent.toml"], "absent.toml: cannot read this job file (No such file or directory)"),
        (["stray", "--manifest", "x"], "stray"),
        (["--manifest"], "--manifest"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(arguments, told):
    with pytest.raises(InputError) as caught:
        load(Job, "job", arguments)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('manifest = "m"\nmax-spn = 5\n', "unknown setting max-spn; did you mean --max-span?"),
        ('manifest = "m"\n[inner]\nbatch = 5\n', "unknown setting inner.batch; did you mean --inner.batch-size?"),
        ("manifest = m", "not a TOML file"),
    ],
)
def test_what_is_wrong_in_a_job_file_names_the_file(tmp_path, text, told):
    path = tmp_path / "job.toml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        load(Job, "job", [str(path)])
    assert told in str(caught.value)
    assert str(path) in str(caught.value)


def test_help_shows_the_docstrings(capsys):
    with pytest.raises(SystemExit) as caught:
        load(Job, "job", ["--help"])
    assert caught.value.code == 0
    printed = capsys.readouterr().out
    assert "Windows to a batch." in printed
    assert "anyecg job" in printed


def test_fingerprint_depends_on_values_not_on_order():
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1}) != fingerprint({"a": 1, "b": 3})


@pytest.mark.parametrize(
    ("variable", "told"),
    [("ANYECG_JOB_MANIFST", "--manifest"), ("ANYECG_JOB_INNER__BATCHSIZE", "--inner.batch-size")],
)
def test_a_typo_in_the_environment_is_told(monkeypatch, variable, told):
    monkeypatch.setenv(variable, "3")
    with pytest.raises(InputError, match=f"environment: unknown setting .*did you mean {told}"):
        load(Job, "job", ["--manifest", "x"])


def test_variables_of_other_verbs_are_theirs(monkeypatch):
    monkeypatch.setenv("ANYECG_OTHER_MANIFST", "3")
    monkeypatch.setenv("ANYECG_CACHE", "/tmp")
    assert load(Job, "job", ["--manifest", "x"]).manifest == "x"

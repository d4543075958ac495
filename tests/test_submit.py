"""`anyecg submit` and plain `ray job submit` against a real cluster: its own process, ports, folder and token."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import private_ray
import pyarrow.dataset
import pytest
from private_ray import BIN
from ray.job_submission import JobStatus

from anyecg_ray import cli, config, submit
from anyecg_ray.cli import main
from anyecg_ray.config import InputError, JobError


@pytest.fixture(scope="module")
def head():
    """A head node that asks for a token."""
    with private_ray.cluster() as made:
        made.head("--num-cpus=2")
        yield made


@pytest.fixture
def cluster(head, monkeypatch, tmp_path):
    """The head, with its token in this process's environment, and an empty folder to work in."""
    for name in [n for n in os.environ if n.startswith(("RAY_", "ANYECG_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("RAY_AUTH_TOKEN", head.token)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return head


def test_a_job_file_runs_on_the_cluster_and_its_lines_come_here(cluster, capfd):
    Path("synth-small.toml").write_text('out = "archive"\nencounters = 2\nminutes = 1.0\n')
    assert main(["submit", "synth-small.toml", "--address", cluster.address, "--seed", "3"]) == 0
    told = capfd.readouterr()
    assert "archive" in told.out
    assert Path("archive").is_dir()
    assert "python -m anyecg_ray synth synth-small.toml --seed 3" in told.err
    assert cluster.token not in told.out + told.err


@pytest.mark.slow
def test_a_backfill_uses_the_clusters_workers(cluster, capfd):
    lines = """
        synth --out archive --encounters 2 --minutes 1
        manifest --archive archive --dataset mc-med --out manifest.parquet
        init --out bundle --preset tiny
        submit backfill --address ADDRESS --manifest manifest.parquet --bundle bundle --out estimates
    """
    for line in lines.strip().splitlines():
        assert main(line.replace("ADDRESS", cluster.address).split()) == 0
    rows = pyarrow.dataset.dataset("estimates/ecg_lab_estimate").to_table(columns=["span_id", "indicator"]).to_pylist()
    assert rows
    assert len(rows) == len({tuple(row.values()) for row in rows})
    assert "windows in" in capfd.readouterr().out


def test_a_job_that_fails_is_exit_1_and_its_reason_comes_here(cluster, capfd):
    line = f"submit manifest --archive /nowhere --out manifest.parquet --address {cluster.address}"
    assert main(line.split()) == 1
    told = capfd.readouterr()
    assert "/nowhere" in told.out
    assert "failed with exit code 2" in told.err
    assert "Traceback" not in told.out + told.err


def test_plain_ray_job_submit_does_the_same(cluster):
    Path("jobs").mkdir()
    Path("jobs/init.toml").write_text('out = "bundle"\npreset = "tiny"\n')
    line = [BIN / "ray", "job", "submit", "--address", cluster.address, "--working-dir", ".", "--"]
    line += ["python", "-m", "anyecg_ray", "init", "jobs/init.toml", "--out", str(Path("bundle").absolute())]
    done = subprocess.run(line, env=cluster.env, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert Path("bundle/card.json").exists()


def test_interrupting_leaves_the_job_running_and_says_how_to_stop_it(cluster):
    line = [sys.executable, "-m", "anyecg_ray", "submit", "synth", "--out", "archive", "--encounters", "100000"]
    line += ["--address", cluster.address, "--submission-id", "long"]
    env = cluster.env | {"HOME": str(Path.cwd())}
    process = subprocess.Popen(line, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    client = cluster.client
    cluster.await_status("long", JobStatus.RUNNING)
    time.sleep(2)  # so that it follows
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"ray job stop long --address {cluster.address}" in told
    assert client.get_job_status("long") is JobStatus.RUNNING
    client.stop_job("long")
    cluster.await_status("long", JobStatus.STOPPED)
    with pytest.raises(config.JobError, match="stopped"):
        submit._judge(client, "long")


def test_without_the_token_the_cluster_refuses(cluster, monkeypatch, capfd):
    line = ["submit", "init", "--out", "bundle", "--address", cluster.address]
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    assert main(line) == 2
    assert "asks for a token; set RAY_AUTH_TOKEN" in capfd.readouterr().err
    Path("token").write_text("wrong" * 8)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "token")
    assert main(line) == 2
    told = capfd.readouterr()
    assert "does not take this token" in told.err
    assert "wrongwrong" not in told.out + told.err


def test_the_token_is_in_no_job_and_no_log(cluster):
    """After the tests above, and in whatever order: what the cluster keeps of its jobs does not hold the token."""
    assert cluster.token not in str([vars(job) for job in cluster.client.list_jobs()])
    logs = list((cluster.folder / "r").rglob("job-driver-*.log"))
    assert all(cluster.token not in log.read_text(errors="replace") for log in logs)


# what needs no cluster


@pytest.mark.parametrize(
    ("name", "verb"), [("jobs/backfill.toml", "backfill"), ("backfill-nightly.toml", "backfill"), ("init.toml", "init")]
)
def test_a_job_file_is_named_after_its_verb(name, verb):
    assert submit.verb_of(name) == verb


def test_the_command_line_is_taken_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("nightly.toml").write_text('archive = "s3://b/a"\nout = "s3://b/m"\n')
    line = "manifest nightly.toml --no-follow --dataset mc-med --address=http://h:8265 --package installed"
    command = submit.parse(line.split())
    assert command.settings == submit.Submit(address="http://h:8265", follow=False, package="installed")
    assert submit.entrypoint(command) == "python -m anyecg_ray manifest nightly.toml --dataset mc-med"


@pytest.mark.parametrize(
    ("line", "sent"),
    [
        ("manifest --archive archive --out m.parquet", "--archive HERE/archive --out HERE/m.parquet"),
        (
            "export --to fhir --out e --bundle b",
            "--out HERE/e --bundle HERE/b --dest HERE/fhir",
        ),  # dest: the job file's
        ("serve --bundle a --bundle=s3://b/b --keys ~/k", "--bundle HERE/a --bundle s3://b/b --keys HOME/k"),
        ("bench model --json figures.json", "--json HERE/figures.json"),
        ("train --segments s3://b/s --out s3://b/o --init bundle", "--init HERE/bundle"),
        ("publish --out s3://b/o --bundle s3://b/b --sink.uri table", "--sink.uri HERE/table"),
        (
            "publish --out s3://b/o --bundle s3://b/b --sink.kind iceberg --sink.uri sqlite:///c.db --sink.warehouse w",
            "--sink.uri sqlite:///HERE/c.db --sink.warehouse HERE/w",
        ),
        (
            "publish --out s3://b/o --bundle s3://b/b --sink.kind iceberg --sink.properties uri=sqlite:///c.db",
            '--sink.properties {"uri": "sqlite:///HERE/c.db"}',
        ),
    ],
)
def test_relative_locations_become_those_of_this_machine(line, sent, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.chdir(tmp_path)
    Path("bundle").mkdir()
    words = line.split()
    if words[0] == "export":
        Path("export.toml").write_text('dest = "fhir"\n')
        words.insert(1, "export.toml")
    command = submit.parse(words)
    sent = sent.replace("HERE", str(tmp_path)).replace("HOME", "/home/me")
    assert " ".join(command.flags).endswith(sent)
    assert "the cluster's machines must share them" in capsys.readouterr().err
    found = cli.settings_of(words[0], [*([command.job] if command.job else []), *command.flags])
    assert found == found.absolute()


@pytest.mark.parametrize(
    "line",
    [
        "train --segments s3://b/s --out s3://b/o --init random",
        "publish --out s3://b/o --bundle s3://b/b --sink.kind postgres --sink.uri postgresql://h/d",
        "publish --out s3://b/o --bundle s3://b/b --sink.kind postgres --sink.uri service=research",
        "publish --out s3://b/o --bundle s3://b/b --sink.kind iceberg --sink.uri https://c/api --sink.warehouse lab",
        "publish --out s3://b/o --bundle s3://b/b --sink.kind iceberg --sink.uri glue://",
        "init --out /shared/bundle --preset tiny",
    ],
)
def test_what_is_no_relative_location_stays_as_it_is(line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = submit.parse(line.split())
    assert [command.verb, *command.flags] == line.split()
    assert not capsys.readouterr().err


NO_PLACES = {
    *("wfdb.patient", "wfdb.encounter", "mc-med.leads", "leads", "lead", "indicators", "preset", "recipe", "name"),
    *("split", "by", "sink.table", "sink.properties", "host", "url", "model", "units", "grow", "postgres"),
}
"""Settings of text that is no location. One that is in doubt is none of these: mark it with config.Location."""


def test_every_setting_of_text_is_a_location_or_known_to_be_none():
    found = {}
    for entry in (cli.VERBS[verb] for verb in cli.VERBS if verb != "submit"):
        model = getattr(__import__(f"anyecg_ray.{entry.module}", fromlist=["x"]), entry.settings)
        for key, owner, name in text_settings(model):
            found.setdefault(key, set()).add(config.place_of(owner, name) is not None)
    assert {key for key, marked in found.items() if False in marked} == NO_PLACES
    assert {"out", "dest", "tables", "persons", "waveforms", "cohort", "sink.uri", "sink.warehouse"} <= set(found)


def text_settings(model, prefix=""):
    """(key, settings class, field) of all settings that take text which is not one of a few words."""
    for name, field in model.model_fields.items():
        key = prefix + config.spelt(model, name)
        if nested := config._model_in(field.annotation):
            yield from text_settings(nested, key + ".")
        elif str in config._marks(field.annotation):
            yield key, model, name


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("", "say what to run"),
        ("--address http://h:8265", "say what to run"),
        ("submit --address http://h:8265", "no verb to submit"),
        ("keys add --name me", "no verb to submit"),
        ("nightly.toml", "say which: anyecg submit VERB nightly.toml"),
        ("init --out b --presett tiny", "did you mean --preset?"),
        ("init --out b --package wheel", "setting package"),
        ("init --out s3://b/b", "setting address: is missing"),
        ("init --out s3://b/b --address h:8265", "setting address: h:8265"),
        ("init --out s3://b/b --address http://127.0.0.1:1", "no Ray dashboard answers there"),
        (
            "backfill --manifest s3://b/m --bundle s3://b/b --out s3://b/o --sink.properties token=abcdefgh",
            "sink.properties: token on this line would stand in the job's entrypoint",
        ),
    ],
)
def test_bad_usage_is_exit_2_and_one_line(line, told, capsys, monkeypatch):
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    assert main(["submit", *line.split()]) == 2
    err = capsys.readouterr().err
    assert told in err
    assert err.count("\n") == 1


def test_a_cluster_that_has_just_begun_is_asked_again(monkeypatch):
    answers = [RuntimeError("No available agent to submit job, please try again later."), "job-1"]

    class Client:
        def submit_job(self, **_):
            answer = answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer

    assert submit._taken(Client(), entrypoint="true") == "job-1"
    answers.append(RuntimeError("no space"))
    with pytest.raises(JobError, match="did not take the job: no space"):
        submit._taken(Client(), entrypoint="true")


def test_a_setting_in_the_environment_is_refused_because_it_does_not_travel(monkeypatch):
    monkeypatch.setenv("ANYECG_INIT_PRESET", "tiny")
    with pytest.raises(InputError, match="ANYECG_INIT_PRESET is set here"):
        submit.parse(["init", "--out", "b"])


@pytest.mark.parametrize("verb", [v for v in cli.VERBS if v != "submit"])
def test_no_verb_has_a_setting_of_submits(verb):
    entry = cli.VERBS[verb]
    model = getattr(__import__(f"anyecg_ray.{entry.module}", fromlist=["x"]), entry.settings)
    assert not set(config.fields(model)) & set(config.fields(submit.Submit))


@pytest.mark.parametrize("lasting", [False, True])
def test_a_broken_connection_is_made_again_and_no_line_comes_twice(lasting, capsys, monkeypatch):
    monkeypatch.setattr(submit.time, "sleep", lambda seconds: None)
    log, calls = "one\ntwo\nthree\n", []

    class Client:
        async def tail_job_logs(self, job):
            calls.append(job)
            yield log[:6]
            if lasting or len(calls) < 3:
                raise RuntimeError("WebSocket connection closed unexpectedly")
            yield log[6:]

    if lasting:
        with pytest.raises(ConnectionError):
            submit._follow(Client(), "j")
    else:
        submit._follow(Client(), "j")
    assert capsys.readouterr().out == (log[:6] if lasting else log)

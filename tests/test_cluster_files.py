"""cluster.yaml as Ray reads it, up to the instances that it would start (in moto's EC2), and the Dockerfile."""

import copy
import json
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import get_args

import boto3
import pytest
import ray
import yaml
from dockerfile_parse import DockerfileParser
from moto import mock_aws
from packaging.specifiers import SpecifierSet
from packaging.version import Version
from ray.autoscaler._private.aws.config import bootstrap_aws
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil

from anyecg_ray import __version__
from anyecg_ray.warehouses import Kind

ROOT = Path(__file__).parent.parent
WORKERS = {"cpu_on_demand", "cpu_spot", "gpu_on_demand", "gpu_spot"}
ASSUMED_BY_EC2 = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}],
}


@pytest.fixture
def cluster():
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


@pytest.fixture
def aws(cluster, tmp_path, monkeypatch):
    """An account of moto's with the two instance profiles; Ray leaves a key pair in the home folder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, value in {"ACCESS_KEY_ID": "k", "SECRET_ACCESS_KEY": "s", "DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with mock_aws():
        iam = boto3.client("iam")
        for name in profiles(cluster):
            iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(ASSUMED_BY_EC2))
            iam.create_instance_profile(InstanceProfileName=name)
            iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)
        yield


@pytest.fixture
def ready(cluster, aws):
    """The configuration as `ray up` makes it ready: defaults, what the instance types have, keys, subnets, groups."""
    config = AWSNodeProvider.fillout_available_node_types_resources(prepare_config(cluster))
    validate_config(config)
    return bootstrap_aws(config)


def profiles(cluster):
    return {t["node_config"]["IamInstanceProfile"]["Name"] for t in cluster["available_node_types"].values()}


def test_rays_own_validator_accepts_it(cluster):
    validate_config(prepare_config(copy.deepcopy(cluster)))


@pytest.mark.parametrize("broken", ["head_node_type", "available_node_types"])
def test_rays_own_validator_would_have_refused_it(cluster, broken):
    cluster[broken] = {"head_node_type": "nobody", "available_node_types": {"head": {"node_config": {}}}}[broken]
    with pytest.raises(Exception, match=r"head_node_type|resources"):
        validate_config(prepare_config(cluster))


def test_the_head_runs_no_work_and_workers_come_and_go(cluster):
    types = cluster["available_node_types"]
    assert types["head"]["resources"] == {"CPU": 0}
    assert set(types) == {"head", *WORKERS}
    assert {types[name]["min_workers"] for name in WORKERS} == {0}
    assert min(types[name]["max_workers"] for name in WORKERS) > 0


def test_every_type_starts_in_ec2_as_it_says(ready):
    provider = AWSNodeProvider(ready["provider"], ready["cluster_name"])
    for name, node in ready["available_node_types"].items():
        ((_, instance),) = provider.create_node(node["node_config"], {"ray-node-name": name}, 1).items()
        assert (instance.instance_lifecycle == "spot") == name.endswith("_spot")
        assert instance.iam_instance_profile["Arn"].endswith("anyecg-head" if name == "head" else "anyecg-worker")
        assert instance.metadata_options["HttpTokens"] == "required"
        assert node["node_config"]["BlockDeviceMappings"][0]["Ebs"]["Encrypted"] is True


def launched(ready, requests, failed=()):
    """How many of each type Ray's autoscaler starts for some requests; those in `failed` were not to be had of late."""
    config = AutoscalingConfig(ready, skip_content_hash=True)
    request = SchedulingRequest(
        disable_launch_config_check=True,
        node_type_configs=config.get_node_type_configs(),
        max_num_nodes=ready["max_workers"],
        resource_requests=ResourceRequestUtil.group_by_count([ResourceRequestUtil.make(r) for r in requests]),
        recoverable_resource_availabilities=dict.fromkeys(failed, 0.0),
    )
    reply = ResourceDemandScheduler(None).schedule(request)
    assert not reply.infeasible_resource_requests
    return {launch.instance_type: launch.count for launch in reply.to_launch}


PREPROCESS = {"CPU": 1}
MODEL = {"CPU": 1, "GPU": 1, "memory": 2**30}
"""As predict.py asks for one task and one copy of the model."""


def test_preprocessing_goes_to_cpu_machines_and_the_model_to_gpu_machines_spot_first(ready):
    assert launched(ready, [PREPROCESS] * 32) == {"cpu_spot": 2}
    assert launched(ready, [MODEL] * 3) == {"gpu_spot": 3}
    assert launched(ready, [MODEL] * 2 + [PREPROCESS] * 16) == {"gpu_spot": 2, "cpu_spot": 1}


def test_on_demand_where_spot_is_not_to_be_had(ready):
    assert launched(ready, [PREPROCESS] * 32, failed=["cpu_spot"]) == {"cpu_on_demand": 2}
    assert launched(ready, [MODEL] * 3, failed=["gpu_spot"]) == {"gpu_on_demand": 3}


def test_the_machines_install_this_version_on_this_ray(cluster):
    wheel = f"anyecg_ray-{__version__}-py3-none-any.whl"
    assert cluster["file_mounts"][f"/home/ubuntu/{wheel}"] == f"dist/{wheel}"
    install = " ".join(cluster["setup_commands"])
    assert wheel in install
    assert re.findall(r"ray\[default\]==([\d.]+)", install) == [ray.__version__]


def test_every_start_is_with_a_token_and_the_dashboard_stays_on_the_head(cluster):
    starts = [c for c in cluster["head_start_ray_commands"] + cluster["worker_start_ray_commands"] if "ray start" in c]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token" in start for start in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]
    assert "--disable-usage-stats" in starts[0]
    assert f"AWS_DEFAULT_REGION={cluster['provider']['region']} " in starts[0]
    assert "/home/ubuntu/.ray/auth_token" in cluster["file_mounts"]


def extras(text):
    """What stands between the brackets of every requirement of our package in it."""
    return {extra for found in re.findall(r"anyecg_ray[\w.-]*\[([a-z,]+)\]", text) for extra in found.split(",")}


NEEDS = {"iceberg": "warehouse", "postgres": "warehouse", "delta": "warehouse", "openvino": "cpu", "auto": "cpu"}
"""The extra that a warehouse or a backend needs: parquet and torch none."""


def asked_for():
    """The extras that the job files need, and those of the warehouses that their own comments offer."""
    kinds, backends = set(), set()
    for path in (ROOT / "jobs").glob("*.toml"):
        job = tomllib.loads(path.read_text())
        kinds |= {job.get("sink", {}).get("kind", "parquet")} | set(
            re.findall(r"iceberg|postgres|delta", path.read_text())
        )
        backends.add(job.get("backend", "torch"))
    assert kinds == set(get_args(Kind))
    return {NEEDS[name] for name in kinds | backends if name in NEEDS}


def test_the_machines_install_what_the_job_files_ask_for(cluster):
    """The driver commits, on the head; workers are set up alike."""
    assert asked_for() == {"cpu", "warehouse"} == extras(" ".join(cluster["setup_commands"]))


# the image


@pytest.fixture
def dockerfile():
    return [(step["instruction"], step["value"]) for step in DockerfileParser(str(ROOT / "Dockerfile")).structure]


def values(dockerfile, instruction):
    return [value for name, value in dockerfile if name == instruction]


def test_every_copied_source_exists_and_is_in_the_build_context(dockerfile):
    shown = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {source for value in values(dockerfile, "COPY") for source in value.split()[:-1]}
    assert copied == shown
    assert all((ROOT / source).exists() for source in copied)


def test_the_image_agrees_with_the_package(dockerfile):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (base,) = values(dockerfile, "FROM")
    assert Version(re.search(r"python:([\d.]+)-slim", base)[1]) in SpecifierSet(project["requires-python"])
    assert re.search(r'image\.version="([^"]+)"', " ".join(values(dockerfile, "LABEL")))[1] == __version__
    install = next(value for value in values(dockerfile, "RUN") if ".[$extras]" in value)
    assert asked_for() <= set(project["optional-dependencies"])
    for device, expected in {
        "cpu": asked_for(),
        "gpu": asked_for() - {"cpu"},
    }.items():  # KubeRay's back-fills say torch
        choice = f"DEVICE={device}; {install.partition('&& python')[0]}; echo $extras"
        assert set(subprocess.check_output(["sh", "-c", choice], text=True).strip().split(",")) == expected
    assert f"ray=={ray.__version__}" in (ROOT / "constraints.txt").read_text().splitlines()


def test_ray_in_the_image_tells_nobody_how_it_is_used(dockerfile):
    assert "RAY_USAGE_STATS_ENABLED=0" in " ".join(values(dockerfile, "ENV")).split()


def test_the_image_runs_as_nobody_special(dockerfile):
    names = [name for name, _ in dockerfile]
    assert values(dockerfile, "USER") == ["1000"]
    assert max(i for i, name in enumerate(names) if name in ("RUN", "COPY")) < names.index("USER")


def test_the_shell_of_the_image_has_no_mistake(dockerfile, tmp_path):
    """As far as `sh -n` sees; an unknown DEVICE must stop the build."""
    for value in values(dockerfile, "RUN"):
        subprocess.run(["sh", "-n"], input=value, text=True, check=True)
    choice = next(value for value in values(dockerfile, "RUN") if "case" in value)
    shutil.copy(ROOT / "constraints.txt", tmp_path)
    done = subprocess.run(["sh", "-c", choice], env={"DEVICE": "tpu", "PATH": os.environ["PATH"]}, cwd=tmp_path)
    assert done.returncode == 2

"""The KubeRay manifests: KubeRay's fields, Kubernetes' schemas, and what Ray's autoscaler and Serve read in them."""

import copy
import os
import re
import subprocess
import tomllib
from importlib import import_module
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import ray
import yaml
from endpoint import bundle
from kuberay_fields import schema
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil
from ray.serve._private.api import call_user_app_builder_with_args_if_necessary
from ray.serve._private.build_app import build_app
from ray.serve.schema import ServeDeploySchema

from anyecg_ray import __version__, cli
from anyecg_ray.config import InputError
from anyecg_ray.keys import VARIABLE

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "jobs" / "kuberay").glob("*.yaml"))
KINDS = {"rayjob": "RayJob", "raycronjob": "RayCronJob", "rayservice": "RayService"}


def documents(path):
    return list(yaml.safe_load_all(path.read_text()))


def resource(path):
    """The one that is KubeRay's."""
    (found,) = [d for d in documents(path) if d["apiVersion"].startswith("ray.io/")]
    return found


def cluster(path):
    spec = resource(path)["spec"]
    spec = spec.get("jobTemplate", spec)
    return spec.get("rayClusterSpec") or spec["rayClusterConfig"]


def pods(path):
    return [group["template"] for group in [cluster(path)["headGroupSpec"], *cluster(path)["workerGroupSpecs"]]]


each_file = pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)


def test_there_is_one_of_each_kind():
    assert {path.stem: resource(path)["kind"] for path in FILES} == KINDS


@each_file
def test_kuberay_knows_every_field(path):
    found = resource(path)
    jsonschema.validate(found, schema(found["kind"]))


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("rayjob", lambda spec: spec.pop("rayClusterSpec")),
        ("rayjob", lambda spec: spec.update(backofLimit=3)),
        ("raycronjob", lambda spec: spec.update(concurrencyPolicy="Forbid")),
        ("raycronjob", lambda spec: spec["jobTemplate"].update(ttlSecondsAfterFinished="3600")),
        ("rayservice", lambda spec: spec["rayClusterConfig"]["workerGroupSpecs"][0].pop("minReplicas")),
        ("rayservice", lambda spec: spec["rayClusterConfig"]["headGroupSpec"].update(rayStartParams={"num-cpus": 0})),
    ],
)
def test_a_wrong_field_is_found(file, change):
    broken = copy.deepcopy(resource(ROOT / "jobs" / "kuberay" / f"{file}.yaml"))
    change(broken["spec"])
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, schema(broken["kind"]))


@each_file
def test_kubernetes_takes_the_pods_and_the_config_maps(path):
    version = kubernetes_validate.latest_version()
    for pod in pods(path):
        kubernetes_validate.validate({"apiVersion": "v1", "kind": "PodTemplate", "template": pod}, version, strict=True)
    for document in documents(path):
        if document["apiVersion"] == "v1":
            kubernetes_validate.validate(document, version, strict=True)


def test_kubernetes_would_not_have_taken_a_wrong_pod():
    pod = copy.deepcopy(pods(FILES[0])[0])
    pod["spec"]["containers"][0]["imagee"] = "x"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(
            {"apiVersion": "v1", "kind": "PodTemplate", "template": pod},
            kubernetes_validate.latest_version(),
            strict=True,
        )


@each_file
def test_the_pods_are_locked_down(path):
    """As the Kubernetes policy `restricted` asks."""
    for pod in pods(path):
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
        assert pod["spec"]["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["spec"]["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["requests"] == container["resources"]["limits"]
    assert cluster(path)["authOptions"] == {"mode": "token"}


@each_file
def test_volumes_that_are_mounted_are_there(path):
    maps = {d["metadata"]["name"] for d in documents(path) if d["kind"] == "ConfigMap"}
    for pod in pods(path):
        volumes = {v["name"]: v for v in pod["spec"]["volumes"]}
        assert {m["name"] for c in pod["spec"]["containers"] for m in c["volumeMounts"]} == set(volumes)
        assert {v["configMap"]["name"] for v in volumes.values() if "configMap" in v} == maps


@each_file
def test_the_images_are_of_this_version_and_the_ray_is_ours(path):
    images = {container["image"] for pod in pods(path) for container in pod["spec"]["containers"]}
    assert images == {f"anyecg-ray:{__version__}", f"anyecg-ray:{__version__}-gpu"}
    assert cluster(path)["rayVersion"] == ray.__version__


@each_file
def test_rays_autoscaler_puts_preprocessing_on_cpu_pods_and_the_model_on_gpu_pods(path):
    custom = {"metadata": {"name": "c", "namespace": "n"}, "spec": cluster(path)}
    found = _derive_autoscaling_config_from_ray_cr(custom)
    assert found["available_node_types"]["headgroup"]["resources"]["CPU"] == 0
    assert launched(found, [{"CPU": 1}] * 14) == {"cpu": 2}
    assert launched(found, [{"CPU": 1, "GPU": 1, "memory": 2**30}] * 3) == {"gpu": 3}


def launched(found, requests):
    request = SchedulingRequest(
        disable_launch_config_check=True,
        node_type_configs=AutoscalingConfig(found, skip_content_hash=True).get_node_type_configs(),
        max_num_nodes=found["max_workers"],
        resource_requests=ResourceRequestUtil.group_by_count([ResourceRequestUtil.make(r) for r in requests]),
    )
    reply = ResourceDemandScheduler(None).schedule(request)
    assert not reply.infeasible_resource_requests
    return {launch.instance_type: launch.count for launch in reply.to_launch}


def config_map(path):
    (files,) = [d["data"] for d in documents(path) if d["kind"] == "ConfigMap"]
    return files


@pytest.mark.parametrize("file", ["rayjob", "raycronjob"])
def test_the_job_files_and_commands_in_it_are_accepted(file, tmp_path):
    path = ROOT / "jobs" / "kuberay" / f"{file}.yaml"
    files = config_map(path)
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    spec = resource(path)["spec"]
    lines = [spec.get("jobTemplate", spec)["entrypoint"], *files.get("nightly.sh", "").splitlines()]
    commands = [re.search(r"python -m anyecg_ray (\S+) (?:/etc/anyecg/)?(\S+\.toml)", line) for line in lines]
    verbs = {found[1]: cli.settings_of(found[1], [str(tmp_path / found[2])]) for found in commands if found}
    assert set(verbs) == {name.removesuffix(".toml") for name in files if name.endswith(".toml")}
    gpus = next(g for g in cluster(path)["workerGroupSpecs"] if g["groupName"] == "gpu")
    assert verbs["backfill"].predict.actors == gpus["maxReplicas"]
    assert tomllib.loads(files["backfill.toml"])["predict"]["gpus_per_actor"] == 1


@pytest.mark.parametrize(
    ("indexed", "scored", "ran", "ends"),
    [
        (0, 0, "manifest backfill", 0),
        (1, 0, "manifest backfill", 1),  # some headers could not be fetched, and all else is in the manifest
        (0, 1, "manifest backfill", 1),
        (1, 2, "manifest backfill", 2),
        (2, 0, "manifest", 2),
        (143, 0, "manifest", 143),
    ],
)
def test_what_was_indexed_is_scored_that_night(tmp_path, indexed, scored, ran, ends):
    stand_in = f'#!/bin/sh\necho "$3" >> ran\n[ "$3" = manifest ] && exit {indexed} || exit {scored}\n'
    (tmp_path / "python").write_text(stand_in)
    (tmp_path / "python").chmod(0o755)
    script = config_map(ROOT / "jobs" / "kuberay" / "raycronjob.yaml")["nightly.sh"].replace(
        "/etc/anyecg", str(tmp_path)
    )
    path = f"{tmp_path}:{os.environ['PATH']}"
    assert subprocess.run(["bash", "-c", script], env={"PATH": path}).returncode == ends
    assert (tmp_path / "ran").read_text().split() == ran.split()


def test_the_nightly_job_ends_before_the_next_one_starts():
    spec = resource(ROOT / "jobs" / "kuberay" / "raycronjob.yaml")["spec"]
    assert re.fullmatch(r"\d+ \d+ \* \* \*", spec["schedule"])
    assert spec["jobTemplate"]["activeDeadlineSeconds"] < 24 * 3600


def test_the_nightly_cluster_is_that_of_a_single_job():
    one, nightly = (cluster(ROOT / "jobs" / "kuberay" / f"{name}.yaml") for name in ("rayjob", "raycronjob"))
    text = yaml.safe_dump(nightly).replace("anyecg-nightly", "anyecg-backfill")
    assert yaml.safe_load(text) == one


SERVICE = ROOT / "jobs" / "kuberay" / "rayservice.yaml"


@pytest.fixture
def served():
    """The application of the service, as Serve reads its config."""
    config = yaml.safe_load(resource(SERVICE)["spec"]["serveConfigV2"])
    (found,) = ServeDeploySchema.model_validate(config).applications
    return found


def mounted(path):
    """(secret, name in it) of a file of the service's pods; every pod must have it, for Serve builds anywhere."""
    found = set()
    for pod in pods(SERVICE):
        secrets = {v["name"]: v["secret"]["secretName"] for v in pod["spec"]["volumes"]}
        (mount,) = pod["spec"]["containers"][0]["volumeMounts"]
        found.add((secrets[mount["name"]], str(Path(path).relative_to(mount["mountPath"]))))
    (one,) = found
    return one


def test_the_keys_of_the_service_are_the_secret_that_its_head_makes(served):
    secret = re.search(r"kubectl create secret generic (\S+) --from-file=(\S+)", SERVICE.read_text())
    assert mounted(served.args["keys"]) == secret.groups()
    assert f"anyecg keys add --name clinic --file {secret[2]} " in SERVICE.read_text()
    assert secret[0] in (ROOT / "docs" / "serving.md").read_text()


def test_the_service_builds_and_asks_for_workers_that_there_are(served, tmp_path, monkeypatch, capsys):
    """With its own arguments, but for the bundle's place and that of the keys."""
    assert not any("env" in container for pod in pods(SERVICE) for container in pod["spec"]["containers"])
    monkeypatch.delenv(VARIABLE, raising=False)
    assert cli.main(["keys", "add", "--name", "clinic", "--file", str(tmp_path / "keys")]) == 0
    args = served.args | {"bundle": [bundle(tmp_path)], "keys": str(tmp_path / "keys")}
    module, _, name = served.import_path.partition(":")
    built = build_app(
        call_user_app_builder_with_args_if_necessary(getattr(import_module(module), name), args), name="anyecg"
    )
    (model,) = [d for d in built.deployments if d.name.startswith("model-")]
    (ingress,) = [d for d in built.deployments if d.name == built.ingress_deployment_name]
    found = _derive_autoscaling_config_from_ray_cr(
        {"metadata": {"name": "c", "namespace": "n"}, "spec": cluster(SERVICE)}
    )
    most = model._deployment_config.autoscaling_config.max_replicas
    assert launched(found, [asked(model)] * most) == {"gpu": found["available_node_types"]["gpu"]["max_workers"]}
    assert launched(found, [asked(ingress), asked(model)]) == {"cpu": 1, "gpu": 1}
    monkeypatch.setitem(args, "keys", None)
    with pytest.raises(InputError, match="holds no active key"):
        import_module(module).application(import_module(module).Application(**args))


def asked(deployment):
    """What one of its replicas asks Ray for."""
    options = deployment.ray_actor_options
    return {"CPU": options["num_cpus"], "GPU": options.get("num_gpus", 0)}

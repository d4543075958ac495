"""The fields of KubeRay's resources, as JSON schemas: what its API server would take of our manifests.

Written by hand from the API reference of ray.io/v1 (KubeRay 1.6 and 1.7, docs.ray.io), not copied from its CRDs: names,
types and what is required, unknown names refused. Pod templates are Kubernetes' own and validated with its schemas.
"""

from typing import Any

TEXT, WHOLE, NUMBER, FLAG = ({"type": t} for t in ("string", "integer", "number", "boolean"))
TEXTS = {"type": "object", "additionalProperties": TEXT}
POD = {"type": "object", "required": ["spec"]}
ANY = {"type": "object"}


def record(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def one_of(*values: str) -> dict[str, Any]:
    return {"enum": list(values)}


AUTOSCALER = record(
    version=one_of("v1", "v2"),
    idleTimeoutSeconds=WHOLE,
    upscalingMode=one_of("Default", "Aggressive", "Conservative"),
    image=TEXT,
    imagePullPolicy=TEXT,
    resources=ANY,
    securityContext=ANY,
    env={"type": "array"},
    envFrom={"type": "array"},
    volumeMounts={"type": "array"},
)

GROUP = {"template": POD, "rayStartParams": TEXTS, "resources": TEXTS, "labels": TEXTS}

HEAD = record(("template",), **GROUP, serviceType=TEXT, enableIngress=FLAG, headService=ANY)

WORKERS = record(
    ("groupName", "minReplicas", "maxReplicas", "template"),
    **GROUP,
    groupName=TEXT,
    replicas=WHOLE,
    minReplicas=WHOLE,
    maxReplicas=WHOLE,
    idleTimeoutSeconds=WHOLE,
    numOfHosts=WHOLE,
    scaleStrategy=ANY,
    suspend=FLAG,
)

CLUSTER = record(
    ("headGroupSpec",),
    rayVersion=TEXT,
    authOptions=record(("mode",), mode=one_of("token", "disabled"), secretName=TEXT),
    enableInTreeAutoscaling=FLAG,
    autoscalerOptions=AUTOSCALER,
    headGroupSpec=HEAD,
    workerGroupSpecs={"type": "array", "items": WORKERS},
    headServiceAnnotations=TEXTS,
    gcsFaultToleranceOptions=ANY,
    managedBy=TEXT,
    suspend=FLAG,
)

JOB = record(
    ("entrypoint", "rayClusterSpec"),
    entrypoint=TEXT,
    rayClusterSpec=CLUSTER,
    runtimeEnvYAML=TEXT,
    submissionMode=one_of("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"),
    submitterPodTemplate=POD,
    submitterConfig=record(backoffLimit=WHOLE),
    backoffLimit=WHOLE,
    activeDeadlineSeconds=WHOLE,
    shutdownAfterJobFinishes=FLAG,
    ttlSecondsAfterFinished=WHOLE,
    deletionStrategy=ANY,
    entrypointNumCpus=NUMBER,
    entrypointNumGpus=NUMBER,
    entrypointResources=TEXT,
    clusterSelector=TEXTS,
    metadata=TEXTS,
    jobId=TEXT,
    managedBy=TEXT,
    suspend=FLAG,
)

CRON_JOB = record(("schedule", "jobTemplate"), schedule=TEXT, timeZone=TEXT, suspend=FLAG, jobTemplate=JOB)

SERVICE = record(
    ("rayClusterConfig",),
    serveConfigV2=TEXT,
    rayClusterConfig=CLUSTER,
    upgradeStrategy=record(type=one_of("NewCluster", "NewClusterWithIncrementalUpgrade", "None")),
    excludeHeadPodFromServeSvc=FLAG,
    serveService=ANY,
)

SPECS = {"RayJob": JOB, "RayCronJob": CRON_JOB, "RayService": SERVICE}


def schema(kind: str) -> dict[str, Any]:
    """Of a whole resource."""
    return record(
        ("apiVersion", "kind", "metadata", "spec"),
        apiVersion=one_of("ray.io/v1"),
        kind=one_of(kind),
        metadata=record(("name",), name={"type": "string", "pattern": "^[a-z][-a-z0-9]{0,46}$"}, labels=TEXTS),
        spec=SPECS[kind],
    )

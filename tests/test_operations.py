"""docs/operations.md: its policies are policies, its sums are right, its dashboard asks for metrics that there are."""

import json
import re
from pathlib import Path

import boto3
import pytest
from moto import mock_aws

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "operations.md").read_text()
POLICIES = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", PAGE, re.S)]
METRICS = {
    "ray_anyecg_spans_total",
    "ray_anyecg_windows_total",
    "ray_anyecg_bytes_read_total",
    "ray_anyecg_stage_seconds_total",
    "ray_anyecg_model_windows_per_second",
}


@pytest.mark.parametrize("policy", POLICIES, ids=["worker", "head"])
def test_iam_takes_the_policies(policy, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, "us-east-1")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with mock_aws():
        iam = boto3.client("iam")
        iam.create_policy(PolicyName="p", PolicyDocument=json.dumps(policy))
        wrong = json.dumps(policy).replace("s3:GetObject", "everything").replace("ec2:Describe*", "everything")
        with pytest.raises(iam.exceptions.MalformedPolicyDocumentException):
            iam.create_policy(PolicyName="q", PolicyDocument=wrong)


def actions(statement):
    found = statement["Action"]
    return [found] if isinstance(found, str) else found


def test_no_policy_gives_more_than_it_needs():
    worker, head = POLICIES
    assert {a.split(":")[0] for s in worker["Statement"] for a in actions(s)} == {"s3"}
    for statement in [*worker["Statement"], *head["Statement"]]:
        assert "*" not in actions(statement)
        if statement["Resource"] == "*":  # what EC2 cannot name before it is there, and looking
            assert statement["Action"] == "ec2:Describe*" or "Condition" in statement


def test_the_example_of_cost_is_what_the_formula_gives(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    exec(compile(code, "operations", "exec"), {})
    sums = re.findall(r"\$[\d.]+", capsys.readouterr().out)
    assert len(sums) == 2
    assert all(f"{money} for a million" in PAGE for money in sums)
    assert "**228 windows/s" in (ROOT / "docs" / "benchmarks.md").read_text(), "measured anew: change the example too"


def test_the_page_and_the_dashboard_know_the_same_metrics():
    dashboard = json.loads((ROOT / "docs" / "grafana.json").read_text())
    asked = " ".join(t["expr"] for panel in dashboard["panels"] for t in panel["targets"])
    assert set(re.findall(r"ray_anyecg_\w+", asked)) == METRICS
    assert set(re.findall(r"ray_anyecg_\w+", PAGE)) == METRICS


def test_the_dashboards_panels_do_not_overlap():
    panels = json.loads((ROOT / "docs" / "grafana.json").read_text())["panels"]
    taken = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(taken) == len(set(taken))
    assert max(x for x, _ in taken) < 24
    assert len({panel["id"] for panel in panels}) == len(panels)


def test_the_files_of_the_cluster_agree_with_the_page():
    text = (ROOT / "cluster.yaml").read_text()
    for name in ("anyecg-head", "anyecg-worker"):
        assert f"Name: {name}" in text
        assert f"`{name}`" in PAGE
    assert "parameter/aws/service/deeplearning/ami/" in PAGE
    assert "resolve:ssm:/aws/service/deeplearning/ami/" in text
    assert "cluster_name: anyecg" in text
    assert '"aws:ResourceTag/ray-cluster-name": "anyecg"' in PAGE
    assert text.count("--metrics-export-port=8090") == 2
    assert "port 8090" in PAGE

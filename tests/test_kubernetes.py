"""The manifests of config/deploy/kubernetes fit Kubernetes, the program and its image."""

from __future__ import annotations

import re

import pytest
import yaml

from collector import console
from collector.settings import load_settings, unknown_variables
from tests.cloudformation import DEPLOY

FOLDER = DEPLOY / "kubernetes"
FILES = sorted(path.name for path in FOLDER.glob("*.yaml"))
JOBS = ("cronjob.yaml", "indexed-job.yaml")
OLDEST = "1.29"
"""The first release that takes all of it without a feature gate: backoffLimitPerIndex came last."""

NEWEST = None
"""Stands for the newest release whose schema there is."""

MOST_MEMORY = 181
"""MB of 17,000 targets, the most that the README has measured."""


def documents(name):
    return list(yaml.safe_load_all((FOLDER / name).read_text(encoding="utf-8")))


def job(name):
    """The spec of the Job that a CronJob makes."""
    (cronjob,) = documents(name)
    return cronjob["spec"]["jobTemplate"]["spec"]


def pod(name):
    return job(name)["template"]["spec"]


def container(name):
    (found,) = pod(name)["containers"]
    return found


COMMON = {each["kind"]: each for each in documents("common.yaml")}


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize("name", FILES)
def test_a_manifest_is_what_the_api_takes(name, version):
    """By the API's own schema, which is strict: a field that it does not know is an error."""
    import kubernetes_validate

    for document in documents(name):
        kubernetes_validate.validate(
            document, version or kubernetes_validate.latest_version(), strict=True
        )


def test_a_field_that_the_api_does_not_know_is_found():
    """The check above is one: a misspelt field does not pass it."""
    import kubernetes_validate

    (cronjob,) = documents("cronjob.yaml")
    cronjob["spec"]["concurencyPolicy"] = "Forbid"
    with pytest.raises(kubernetes_validate.ValidationError, match="concurencyPolicy"):
        kubernetes_validate.validate(cronjob, OLDEST, strict=True)


@pytest.mark.parametrize("name", JOBS)
def test_what_a_pod_refers_to_is_there(name):
    """Namespace, service account, settings and volumes have the names that they are called by."""
    (cronjob,) = documents(name)
    namespace = COMMON["Namespace"]["metadata"]["name"]
    for each in (cronjob, COMMON["ServiceAccount"], COMMON["ConfigMap"]):
        assert each["metadata"]["namespace"] == namespace
    assert pod(name)["serviceAccountName"] == COMMON["ServiceAccount"]["metadata"]["name"]
    assert "eks.amazonaws.com/role-arn" in COMMON["ServiceAccount"]["metadata"]["annotations"]
    volumes = {each["name"]: each for each in pod(name)["volumes"]}
    mounts = {each["mountPath"]: each["name"] for each in container(name)["volumeMounts"]}
    assert set(mounts.values()) == set(volumes)
    configured = volumes[mounts["/etc/collector"]]["configMap"]["name"]
    assert configured == COMMON["ConfigMap"]["metadata"]["name"]
    assert "emptyDir" in volumes[mounts["/tmp"]]


@pytest.fixture
def settings(tmp_path):
    """Loads the settings of a pod: the file of the ConfigMap, then its environment."""
    ((file, text),) = COMMON["ConfigMap"]["data"].items()
    (tmp_path / file).write_text(text, encoding="utf-8")

    def loaded(name, **environ):
        given = {each["name"]: each["value"] for each in container(name)["env"]} | environ
        assert unknown_variables(given) == []
        assert given["COLLECTOR_CONFIG"] == f"/etc/collector/{file}"
        return load_settings({}, file=tmp_path / file, environ=given)

    return loaded


def test_the_settings_load(settings):
    """Every key and variable is a setting, and a run gets what stands there."""
    loaded = settings("cronjob.yaml")
    assert (loaded.accounts, loaded.role_name) == ("organization", "InventoryReader")
    assert (loaded.sink, loaded.state) == (("s3://my-lake/inventory/",), "s3://my-lake/state")
    assert loaded.redact == {"environment": "values", "hyper_parameters": "matching"}
    assert loaded.shard is None


def test_the_pods_of_an_indexed_job_are_all_shards(settings):
    """Each index is a shard of its own with a report of its own, and together they are all."""
    spec = job("indexed-job.yaml")
    assert spec["completionMode"] == "Indexed"
    pods = [
        settings("indexed-job.yaml", JOB_COMPLETION_INDEX=str(index))
        for index in range(spec["completions"])
    ]
    assert {str(each.shard) for each in pods} == {f"{k}/{len(pods)}" for k in range(1, 17)}
    assert len({each.report for each in pods}) == len(pods)


@pytest.mark.parametrize("name", JOBS)
def test_a_pod_is_shut_in(name):
    """The image's user, who is not root; nothing to write to but /tmp; no rights, no API token."""
    dockerfile = (DEPLOY.parents[1] / "Dockerfile").read_text(encoding="utf-8")
    (user,) = re.findall(r"^USER (\d+)", dockerfile, re.MULTILINE)
    assert pod(name)["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": int(user),
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert container(name)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod(name)["automountServiceAccountToken"] is False
    level = COMMON["Namespace"]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"]
    assert level == "restricted"


@pytest.mark.parametrize("name", JOBS)
def test_a_pod_has_room_and_time(name, settings):
    """Memory for the largest run that was measured, and longer to stop than a run takes to."""
    resources = container(name)["resources"]
    for amount in (resources["requests"]["memory"], resources["limits"]["memory"]):
        assert int(amount.removesuffix("Mi")) * 2**20 > MOST_MEMORY * 10**6
    needed = settings("cronjob.yaml").grace + console._FLUSH_TIME
    assert needed < pod(name)["terminationGracePeriodSeconds"]


@pytest.mark.parametrize(("name", "end"), [*zip(JOBS, ("FailJob", "FailIndex"), strict=True)])
def test_what_may_pass_is_tried_again(name, end):
    """Statuses 2 and 3 end a job, or just the shard that they are of; all others are retried."""
    spec = job(name)
    assert pod(name)["restartPolicy"] == "Never"  # or the policy is not allowed
    rules = spec["podFailurePolicy"]["rules"]
    assert rules[0]["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    assert [rule["action"] for rule in rules] == ["Ignore", end]
    assert rules[1]["onExitCodes"]["values"] == [2, 3]
    assert rules[1]["onExitCodes"]["containerName"] == container(name)["name"]
    assert spec["backoffLimitPerIndex" if end == "FailIndex" else "backoffLimit"] > 0


@pytest.mark.parametrize("name", JOBS)
def test_runs_do_not_overlap(name):
    """One at a time, begun within the hour or not at all, and over before the next night."""
    (cronjob,) = documents(name)
    assert cronjob["spec"]["concurrencyPolicy"] == "Forbid"
    assert cronjob["spec"]["startingDeadlineSeconds"] <= 3600
    assert job(name)["activeDeadlineSeconds"] < 86_400

"""The manifest of KubeRay. No package has its schema, so its own fields are compared with KubeRay's by name."""

import re
import shlex

import pytest
import yaml

from tests.support.server import ROOT

JOB = yaml.safe_load((ROOT / "deploy" / "ray" / "rayjob.yaml").read_text())
CLUSTER = JOB["spec"]["rayClusterSpec"]
HEAD, [WORKERS] = CLUSTER["headGroupSpec"], CLUSTER["workerGroupSpecs"]
GROUP_FIELDS = {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}


def test_every_field_is_one_of_kuberay() -> None:
    assert (JOB["apiVersion"], JOB["kind"]) == ("ray.io/v1", "RayJob")
    assert JOB["spec"].keys() <= {
        "entrypoint", "backoffLimit", "activeDeadlineSeconds", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished",
        "submissionMode", "runtimeEnvYAML", "rayClusterSpec",
    }  # fmt: skip
    assert CLUSTER.keys() <= {"rayVersion", "headGroupSpec", "workerGroupSpecs", "enableInTreeAutoscaling"}
    assert HEAD.keys() == {"rayStartParams", "template"}
    assert WORKERS.keys() == GROUP_FIELDS
    for group in (HEAD, WORKERS):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())


@pytest.mark.parametrize("group", [HEAD, WORKERS], ids=["head", "workers"])
def test_the_pods_are_valid_and_restricted(group: dict) -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="needs kubernetes-validate").validate
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "ray"}, "spec": group["template"]["spec"]}
    validate(pod, "1.33", strict=True)
    assert pod["spec"]["securityContext"]["runAsNonRoot"]
    [container] = pod["spec"]["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["livenessProbe"] and container["readinessProbe"], "KubeRay's own ones need wget"


def test_the_command_is_understood_and_uses_every_core() -> None:
    batch = pytest.importorskip("moodreel.cli.batch", reason="batches need Ray: pip install 'moodreel[batch]'")
    words = shlex.split(JOB["spec"]["entrypoint"])
    assert words[:6] == ["env", "RAY_ADDRESS=auto", "python", "-m", "moodreel", "batch"]
    options = batch._parser().parse_args(words[6:])
    assert options.workers == WORKERS["replicas"] * int(WORKERS["rayStartParams"]["num-cpus"])


def test_ray_has_the_pinned_version() -> None:
    [pinned] = re.findall(r"^ray\[.*\]==(.*)$", (ROOT / "requirements-batch.txt").read_text(), re.M)
    assert CLUSTER["rayVersion"] == pinned

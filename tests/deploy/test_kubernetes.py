"""The manifests for Kubernetes: built by kubectl's kustomize, valid, and restricted. And that of Cloud Run."""

import re
import shutil
import subprocess
from functools import cache
from typing import Any

import pytest
import yaml

from api.settings import Settings
from tests.support.server import ROOT

MANIFESTS = ROOT / "deploy" / "k8s"
CLOUD_RUN = yaml.safe_load((ROOT / "deploy" / "cloudrun" / "service.yaml").read_text())
GRACEFUL_SECONDS = 2 * 20 + 30 + 15
"""graceful_timeout of api/gunicorn.conf.py with the default settings."""


pytestmark = pytest.mark.skipif(not shutil.which("kubectl"), reason="needs Debian's package kubernetes-client")


@cache
def resources(overlay: str) -> list[dict[str, Any]]:
    """Return the overlay's resources."""
    done = subprocess.run(
        ["kubectl", "kustomize", MANIFESTS / overlay], capture_output=True, text=True, timeout=60, check=True
    )
    return list(yaml.safe_load_all(done.stdout))


def build(overlay: str) -> dict[str, Any]:
    """Return the overlay's resources by kind, the first of each."""
    return {resource["kind"]: resource for resource in reversed(resources(overlay))}


def container(overlay: str) -> dict[str, Any]:
    [only] = build(overlay)["Deployment"]["spec"]["template"]["spec"]["containers"]
    return only


@pytest.mark.parametrize("overlay", ["base", "gpu"])
def test_every_resource_is_valid(overlay: str) -> None:
    validate = pytest.importorskip("kubernetes_validate").validate
    assert build(overlay).keys() == {
        "Namespace", "ConfigMap", "Deployment", "Service", "Ingress", "HorizontalPodAutoscaler", "PodDisruptionBudget",
        "NetworkPolicy",
    }  # fmt: skip
    for resource in resources(overlay):
        validate(resource, "1.33", strict=True)


def test_the_ingress_serves_everything_but_metrics() -> None:
    service, metrics = (each for each in resources("base") if each["kind"] == "Ingress")
    [everything], [refused] = (each["spec"]["rules"][0]["http"]["paths"] for each in (service, metrics))
    assert (everything["path"], refused["path"]) == ("/", "/metrics")
    assert service["spec"]["rules"][0]["host"] == metrics["spec"]["rules"][0]["host"]
    allowed = "nginx.ingress.kubernetes.io/whitelist-source-range"
    assert metrics["metadata"]["annotations"][allowed] == "127.0.0.1/32"


def test_every_selector_selects_the_pods() -> None:
    base = build("base")
    labels = base["Deployment"]["spec"]["template"]["metadata"]["labels"].items()
    for kind, selector in {
        "Deployment": base["Deployment"]["spec"]["selector"]["matchLabels"],
        "Service": base["Service"]["spec"]["selector"],
        "PodDisruptionBudget": base["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        "NetworkPolicy": base["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
    }.items():
        assert selector and selector.items() <= labels, kind


def test_pods_are_restricted_and_can_write_what_the_service_writes() -> None:
    pod, only = build("base")["Deployment"]["spec"]["template"]["spec"], container("base")
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert only["securityContext"]["readOnlyRootFilesystem"] is True
    volumes = re.search(r"^VOLUME \[(.+)\]", (ROOT / "Dockerfile").read_text(), re.M)[1]
    written = {mount["mountPath"] for mount in only["volumeMounts"]}
    assert written == {*yaml.safe_load(f"[{volumes}]"), "/tmp", "/dev/shm"}


def test_calls_may_end_before_a_pod_is_killed() -> None:
    assert (
        build("base")["Deployment"]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > GRACEFUL_SECONDS + 5
    )


def test_two_to_five_replicas_by_cpu_and_queue() -> None:
    spec = build("base")["HorizontalPodAutoscaler"]["spec"]
    assert (spec["minReplicas"], spec["maxReplicas"]) == (2, 5)
    assert "replicas" not in build("base")["Deployment"]["spec"]
    [_, queue] = spec["metrics"]
    [rule] = yaml.safe_load((MANIFESTS / "prometheus-adapter.yaml").read_text())["rules"]["custom"]
    assert queue["pods"]["metric"]["name"] == rule["name"]["as"]


def test_the_gpu_overlay_asks_for_one_and_keeps_the_rest() -> None:
    only = container("gpu")
    assert only["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert only["image"].endswith("-cuda")
    assert {"name": "PORT", "value": "5000"} in only["env"]


def test_settings_have_values_that_the_service_takes(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    cloud_run = CLOUD_RUN["spec"]["template"]["spec"]["containers"][0]["env"]
    for values in (
        build("base")["ConfigMap"]["data"],
        {each["name"]: each["value"] for each in container("gpu")["env"] + cloud_run if "value" in each},
    ):
        for name, value in values.items():
            assert name.lower() in Settings.__dataclass_fields__
            monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("API_KEY", "k")
    assert Settings.from_environment().web_concurrency == 2

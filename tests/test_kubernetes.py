"""deploy/kubernetes as a cluster would read it: kustomize renders it, the schemas judge it."""

from __future__ import annotations

import copy
import functools
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from gateway.keys import KeyStore

FOLDER = Path(__file__).resolve().parent.parent / "deploy" / "kubernetes"
EXAMPLE = FOLDER / "overlays" / "example"
COMPONENTS = sorted(it.name for it in (FOLDER / "components").iterdir())
# A new one and the oldest in which all that is used is stable (ContainerResource: 1.30).
VERSIONS = ("1.36", "1.31")

Object = dict[str, Any]


def render(folder: Path) -> list[Object]:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("there is no kubectl on this machine")
    command = [kubectl, "kustomize", str(folder)]
    rendered = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert rendered.returncode == 0, rendered.stderr
    return list(yaml.safe_load_all(rendered.stdout))


@functools.cache
def example() -> list[Object]:
    return render(EXAMPLE)


@pytest.fixture
def objects() -> list[Object]:
    return copy.deepcopy(example())


def only(objects: list[Object], kind: str) -> Object:
    (found,) = (it for it in objects if it["kind"] == kind)
    return found


def pod(objects: list[Object]) -> Object:
    spec: Object = only(objects, "Deployment")["spec"]["template"]["spec"]
    return spec


def container(objects: list[Object], name: str) -> Object:
    (found,) = (it for it in pod(objects)["containers"] if it["name"] == name)
    return found


def settings(objects: list[Object]) -> dict[str, str]:
    data: dict[str, str] = only(objects, "ConfigMap")["data"]
    return data


# --- would a cluster take it? -----------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_is_one_that_kubernetes_knows_field_by_field(
    objects: list[Object], version: str
) -> None:
    assert len(objects) == 10
    for each in objects:
        kubernetes_validate.validate(each, version, strict=True)


def test_a_slip_would_be_found(objects: list[Object]) -> None:
    pod(objects)["terminationGracePeriodSecond"] = 75
    with pytest.raises(kubernetes_validate.ValidationError, match="terminationGracePeriodSecond"):
        kubernetes_validate.validate(only(objects, "Deployment"), VERSIONS[0], strict=True)


@pytest.fixture(params=COMPONENTS)
def with_component(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, list[Object]]:
    """One component by itself, on top of the base."""
    shutil.copytree(FOLDER, tmp_path / "kubernetes")
    overlay = tmp_path / "kubernetes" / "overlays" / "one"
    overlay.mkdir()
    kustomization = {
        "resources": ["../../base"],
        "components": [f"../../components/{request.param}"],
    }
    (overlay / "kustomization.yaml").write_text(json.dumps(kustomization), "utf-8")
    return request.param, render(overlay)


def test_every_component_fits_the_base(with_component: tuple[str, list[Object]]) -> None:
    name, objects = with_component
    for each in objects:
        if each["kind"] != "PodMonitor":  # not Kubernetes' own
            kubernetes_validate.validate(each, VERSIONS[0], strict=True)
    if name == "archive-volume":
        archive = Path(settings(objects)["CARID_ARCHIVE"])
        for each in pod(objects)["containers"]:
            assert str(archive.parent) in [it["mountPath"] for it in each["volumeMounts"]]
        assert settings(objects)["CARID_DRAIN_S"]
    elif name == "prometheus-operator":
        monitor = only(objects, "PodMonitor")["spec"]
        labels = only(objects, "Deployment")["spec"]["template"]["metadata"]["labels"]
        assert monitor["selector"]["matchLabels"].items() <= labels.items()
        assert [it["port"] for it in monitor["podMetricsEndpoints"]] == ["http"]
    else:
        (rule,) = only(objects, "NetworkPolicy")["spec"]["ingress"]
        assert rule["from"]
        assert rule["ports"] == [{"port": 8000, "protocol": "TCP"}]


# --- would it work? ---------------------------------------------------------------------------


def test_selectors_find_the_pods_and_names_find_their_objects(objects: list[Object]) -> None:
    deployment = only(objects, "Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"].items()
    assert deployment["spec"]["selector"]["matchLabels"].items() <= labels
    assert only(objects, "Service")["spec"]["selector"].items() <= labels
    assert only(objects, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"].items() <= labels
    assert only(objects, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"].items() <= labels
    for spread in pod(objects)["topologySpreadConstraints"]:
        assert spread["labelSelector"]["matchLabels"].items() <= labels

    scaled = only(objects, "HorizontalPodAutoscaler")["spec"]
    assert scaled["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert "replicas" not in deployment["spec"]  # each apply would undo the autoscaler's number
    for metric in scaled["metrics"]:
        assert container(objects, metric["containerResource"]["container"])["resources"]["requests"]

    (rule,) = only(objects, "Ingress")["spec"]["rules"]
    service = rule["http"]["paths"][0]["backend"]["service"]
    assert service["name"] == only(objects, "Service")["metadata"]["name"]
    assert service["port"]["name"] in [
        it["name"] for it in only(objects, "Service")["spec"]["ports"]
    ]
    account = only(objects, "ServiceAccount")["metadata"]["name"]
    assert pod(objects)["serviceAccountName"] == account
    for each in pod(objects)["containers"]:
        (config,) = each["envFrom"]
        assert config["configMapRef"]["name"] == only(objects, "ConfigMap")["metadata"]["name"]
    secrets = [it["secret"]["secretName"] for it in pod(objects)["volumes"] if "secret" in it]
    assert secrets == [only(objects, "Secret")["metadata"]["name"]]


def test_the_gateways_port_is_the_only_way_in_and_there_is_no_way_out(
    objects: list[Object],
) -> None:
    ports = [it for each in pod(objects)["containers"] for it in each.get("ports", [])]
    assert ports == [{"name": "http", "containerPort": 8000}]
    (published,) = only(objects, "Service")["spec"]["ports"]
    assert published["targetPort"] == "http"
    policy = only(objects, "NetworkPolicy")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert [it["ports"] for it in policy["ingress"]] == [[{"port": 8000, "protocol": "TCP"}]]
    assert policy["egress"] == []


def probes(objects: list[Object]) -> Iterator[tuple[Object, str, Object]]:
    for each in pod(objects)["containers"]:
        for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
            if kind in each:
                yield each, kind, each[kind]


def test_every_probe_asks_a_port_that_its_container_has(objects: list[Object]) -> None:
    asked = {(each["name"], kind) for each, kind, _ in probes(objects)}
    assert ("gateway", "readinessProbe") in asked
    assert {(name, "startupProbe") for name in ("torchserve", "gateway")} <= asked
    for each, _, probe in probes(objects):
        if "httpGet" in probe:
            assert probe["httpGet"]["port"] in [it["name"] for it in each["ports"]]
            assert probe["httpGet"]["path"] in ("/healthz", "/readyz")
        else:
            command = ["python", "-m", "deploy.healthcheck", "--torchserve"]
            assert (each["name"], probe["exec"]["command"]) == ("torchserve", command)


def test_a_model_that_is_gone_never_restarts_the_gateway(objects: list[Object]) -> None:
    gateway = container(objects, "gateway")
    assert gateway["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert gateway["startupProbe"]["httpGet"]["path"] == "/healthz"
    assert gateway["readinessProbe"]["httpGet"]["path"] == "/readyz"


def test_stopping_leaves_time_for_every_request(objects: list[Object]) -> None:
    drain = float(settings(objects)["CARID_DRAIN_S"])
    last_answers, torchserve = 35, 15  # deploy/serve.py
    assert pod(objects)["terminationGracePeriodSeconds"] > drain + last_answers + torchserve
    # Told by its readiness, or by the pod's end: the endpoint is gone before the drain is over.
    ready = container(objects, "gateway")["readinessProbe"]
    assert ready["periodSeconds"] * ready["failureThreshold"] < drain
    update = only(objects, "Deployment")["spec"]["strategy"]["rollingUpdate"]
    assert update == {"maxSurge": 1, "maxUnavailable": 0}


def test_both_containers_are_one_image_by_digest_with_the_same_settings(
    objects: list[Object],
) -> None:
    torchserve, gateway = pod(objects)["containers"]
    assert torchserve["image"] == gateway["image"]
    assert "@sha256:" in gateway["image"]
    services = [{it["name"]: it.get("value") for it in each["env"]}["CARID_SERVICES"]
                for each in (torchserve, gateway)]  # fmt: skip
    assert services == ["torchserve", "gateway"]
    shared = {"name": "state", "mountPath": "/var/lib/car-identifier"}
    assert shared in torchserve["volumeMounts"]
    assert shared in gateway["volumeMounts"]
    state = next(it for it in pod(objects)["volumes"] if it["name"] == "state")
    assert "emptyDir" in state


def test_pod_is_one_that_a_restricted_namespace_admits(objects: list[Object]) -> None:
    """The rules of the Pod Security Standard "restricted", and more."""
    namespace = only(objects, "Namespace")["metadata"]
    assert namespace["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert {it["metadata"].get("namespace") for it in objects if it["kind"] != "Namespace"} == {
        namespace["name"]
    }
    security = pod(objects)["securityContext"]
    assert security["runAsNonRoot"] is True
    assert (security["runAsUser"], security["runAsGroup"], security["fsGroup"]) == (10001,) * 3
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod(objects)["automountServiceAccountToken"] is False
    for each in pod(objects)["containers"]:
        assert each["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert each["resources"]["limits"].keys() == {"memory"}
        assert each["resources"]["requests"].keys() == {"cpu", "memory"}


def test_example_holds_no_key_and_its_key_file_is_one_that_carid_keys_can_add_to(
    objects: list[Object], tmp_path: Path
) -> None:
    file = tmp_path / "api_keys.json"
    shutil.copy(EXAMPLE / "api_keys.json", file)
    assert KeyStore(file).list() == ()
    key = KeyStore(file).create("laptop")
    assert KeyStore(file).find(key) is not None
    mounted = [
        it for it in container(objects, "gateway")["volumeMounts"] if it["name"] == "api-keys"
    ]
    (mount,) = mounted
    assert "subPath" not in mount  # a changed secret would never appear
    variables = {it["name"]: it["value"] for it in container(objects, "gateway")["env"]}
    named = Path(variables["CARID_API_KEYS_FILE"])
    assert str(named.parent) == mount["mountPath"]
    assert named.name in only(objects, "Secret")["data"]
    assert only(objects, "Secret")["metadata"]["name"] == "car-identifier-api-keys"  # no hash


def test_gateway_with_a_key_file_that_nobody_can_write_starts(tmp_path: Path) -> None:
    """As a mounted secret is: there is a first key, and no need to lock anything to see that."""
    file = tmp_path / "api_keys.json"
    shutil.copy(EXAMPLE / "api_keys.json", file)
    file.with_name("api_keys.json.lock").mkdir()  # cannot be opened, not even by root
    assert KeyStore(file).create_first("first") is None

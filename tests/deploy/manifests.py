"""The rendered manifests as tests ask about them: one object by kind and name, one container with the environment that it
would be given."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from tools.check_manifests import K8S, Manifest, containers_of, pod_of, render

TIERS = ("oltp", "content", "olap", "queue", "notifications")
CLIENTS = ("relay", "worker")
KUSTOMIZATIONS = ("base", "overlays/development")
# What stands where a Secret's value would: it reads as a URL of anything.
SECRET = "postgresql://from-a-secret:5432/database"


@dataclass(frozen=True)
class Workload:
    """An object that makes pods."""

    manifest: Manifest
    environment: dict[str, str]

    @property
    def labels(self) -> dict[str, str]:
        return dict(self.manifest["spec"]["template"]["metadata"]["labels"])

    @property
    def pod(self) -> Manifest:
        pod = pod_of(self.manifest)
        assert pod is not None
        return pod

    @property
    def container(self) -> Manifest:
        (container,) = containers_of(self.pod)
        return container


@cache
def objects(kustomization: str) -> dict[tuple[str, str], Manifest]:
    """Every object of a kustomization by kind and name, without the hash that kustomize adds to a ConfigMap's."""
    found = {}
    for manifest in render(K8S / kustomization):
        name = manifest["metadata"]["name"]
        if manifest["kind"] == "ConfigMap":
            name = name.rpartition("-")[0]
        found[manifest["kind"], name] = manifest
    return found


def of_kind(kustomization: str, kind: str) -> list[Manifest]:
    """Every object of one kind."""
    return [manifest for (found, _), manifest in objects(kustomization).items() if found == kind]


def workload(kustomization: str, kind: str, name: str) -> Workload:
    """A Deployment or a Job, with what its container finds in its environment. Raises KeyError."""
    manifest = objects(kustomization)[kind, name]
    pod = pod_of(manifest)
    assert pod is not None
    (container,) = containers_of(pod)
    return Workload(manifest, _environment(kustomization, container))


def workloads(kustomization: str) -> list[Workload]:
    """Everything that makes pods."""
    keys = [key for key in objects(kustomization) if key[0] in {"Deployment", "Job"}]
    return [workload(kustomization, *key) for key in keys]


def _environment(kustomization: str, container: Manifest) -> dict[str, str]:
    maps = {m["metadata"]["name"]: m["data"] for m in of_kind(kustomization, "ConfigMap")}
    environment: dict[str, str] = {}
    for source in container.get("envFrom", []):
        environment |= maps[source["configMapRef"]["name"]]
    for variable in container.get("env", []):
        environment[variable["name"]] = variable.get("value", SECRET)
    return environment


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """Whether a selector of matchLabels alone picks these labels."""
    assert selector.keys() <= {"matchLabels"}
    wanted: dict[str, str] = selector.get("matchLabels", {})
    return wanted.items() <= labels.items()

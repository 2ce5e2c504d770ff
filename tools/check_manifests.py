"""Renders deploy/k8s as an operator would and checks every object: strictly against Kubernetes' own schemas, then
against the rules of this house. It reaches no cluster and no network."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml
from kubernetes_validate import utils as kubernetes_schemas

ROOT = Path(__file__).resolve().parent.parent
K8S = ROOT / "deploy" / "k8s"
# The one that came with the environment, never the machine's.
KUBECTL = Path(sys.executable).parent / "kubectl"
VERSION = "1.37"
RENDER_TIMEOUT_S = 60

Manifest = dict[str, Any]


class RenderError(Exception):
    """kubectl could not render a kustomization; the text is its own."""


@functools.cache
def _rendered(folder: Path) -> str:
    reply = subprocess.run(
        [str(KUBECTL), "kustomize", str(folder)],
        capture_output=True,
        text=True,
        check=False,
        timeout=RENDER_TIMEOUT_S,
    )
    if reply.returncode != 0:
        raise RenderError(f"{folder.relative_to(ROOT)}: {reply.stderr.strip()}")
    return reply.stdout


def render(folder: Path) -> list[Manifest]:
    """Every object of a kustomization, as `kubectl apply -k` would send it. Raises RenderError."""
    return [found for found in yaml.safe_load_all(_rendered(folder)) if found]


def kustomizations() -> list[Path]:
    """The base, each part of it, and each overlay."""
    parts = sorted(path.parent for path in (K8S / "base").glob("*/kustomization.yaml"))
    overlays = sorted(path.parent for path in (K8S / "overlays").glob("*/kustomization.yaml"))
    return [K8S / "base", *parts, *overlays]


def pod_of(manifest: Manifest) -> Manifest | None:
    """The pod that an object makes, if it makes any."""
    return manifest["spec"]["template"]["spec"] if manifest["kind"] in {"Deployment", "Job"} else None


def containers_of(pod: Manifest) -> list[Manifest]:
    """All containers of a pod, those that only prepare it among them."""
    return [*pod.get("initContainers", []), *pod["containers"]]


def name_of(manifest: Manifest) -> str:
    """Kind and name, for messages."""
    return f"{manifest['kind']}/{manifest['metadata']['name']}"


def schema_violations(manifest: Manifest) -> Iterator[str]:
    """What Kubernetes itself would refuse; a kind without a schema is refused too."""
    try:
        kubernetes_validate.validate(manifest, VERSION, strict=True)
    except kubernetes_validate.ValidationError as error:
        where = ".".join(str(step) for step in error.absolute_path) or "the object"
        yield f"{where}: {error.message}"
    except (kubernetes_validate.SchemaNotFoundError, kubernetes_validate.InvalidSchemaError) as error:
        yield error.message


def pod_violations(manifest: Manifest) -> Iterator[str]:
    """What a pod of ours owes its neighbours."""
    pod = pod_of(manifest)
    if pod is None:
        return
    security = pod.get("securityContext", {})
    if security.get("runAsNonRoot") is not True:
        yield "runs as root"
    if security.get("seccompProfile") != {"type": "RuntimeDefault"}:
        yield "has no seccomp profile RuntimeDefault"
    for flag in ("automountServiceAccountToken", "enableServiceLinks"):
        if pod.get(flag) is not False:
            yield f"{flag} is not false"
    if any(pod.get(shared) for shared in ("hostNetwork", "hostPID", "hostIPC")):
        yield "shares a namespace with its node"
    if any("hostPath" in volume for volume in pod.get("volumes", [])):
        yield "mounts a path of its node"
    for container in containers_of(pod):
        yield from (f"container {container['name']} {words}" for words in container_violations(container))


def container_violations(container: Manifest) -> Iterator[str]:
    """What a container owes: an exact image, no privileges, stated needs, probes where it listens."""
    _, _, tag = container["image"].rpartition("/")[2].partition(":")
    if tag in {"", "latest"}:
        yield f"has an image without a version: {container['image']}"
    security = container.get("securityContext", {})
    wanted = {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    yield from (f"does not say {name}: {value}" for name, value in wanted.items() if security.get(name) != value)
    resources = container.get("resources", {})
    if not {"cpu", "memory"} <= resources.get("requests", {}).keys() or "memory" not in resources.get("limits", {}):
        yield "does not state what it needs"
    if container.get("ports"):
        probes = [
            container.get(f"{moment}Probe", {}).get("grpc", {}) for moment in ("startup", "liveness", "readiness")
        ]
        if not all(probes):
            yield "listens, and lacks a gRPC probe"
        elif probes[1]["service"] == probes[2]["service"]:
            yield "asks the same for liveness and readiness"


def policy_violations(manifest: Manifest) -> Iterator[str]:
    """A network policy names both directions, and every rule both whom and which ports: nothing is open."""
    if manifest["kind"] != "NetworkPolicy":
        return
    spec = manifest["spec"]
    if set(spec.get("policyTypes", [])) != {"Ingress", "Egress"}:
        yield "does not rule both directions"
    for direction, peer in (("ingress", "from"), ("egress", "to")):
        for rule in spec.get(direction, []):
            if not rule.get(peer) or not rule.get("ports"):
                yield f"has an open {direction} rule"
            elif {} in rule[peer] or {"podSelector": {}} in rule[peer]:
                yield f"has an {direction} rule that names everybody"


def kind_violations(manifest: Manifest) -> Iterator[str]:
    """Values of secrets never stand in manifests."""
    if manifest["kind"] == "Secret":
        yield "is a Secret: refer to it by name"


RULES = (schema_violations, kind_violations, pod_violations, policy_violations)


def component_violations() -> Iterator[str]:
    """Components that nothing renders are unchecked, and so are not allowed."""
    texts = "\n".join(p.read_text() for top in ("base", "overlays") for p in (K8S / top).rglob("kustomization.yaml"))
    for component in sorted(path.parent.name for path in (K8S / "components").glob("*/kustomization.yaml")):
        if f"components/{component}" not in texts:
            yield f"components/{component}: nothing uses it"


def check(folder: Path, seen: dict[str, list[str]]) -> list[str]:
    """Violations of a kustomization; prints what was checked. `seen` remembers objects judged before."""
    manifests = render(folder)
    violations = []
    for manifest in manifests:
        key = json.dumps(manifest, sort_keys=True)
        if key not in seen:
            seen[key] = [words for rule in RULES for words in rule(manifest)]
        violations += [f"{folder.relative_to(K8S)}: {name_of(manifest)}: {words}" for words in seen[key]]
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(Counter(m["kind"] for m in manifests).items()))
    print(f"{folder.relative_to(K8S)}: {len(manifests)} objects ({kinds})")
    return violations


def main() -> int:
    """Check everything; 0 when every object is right."""
    # The schemas' definitions are large and the same for every object.
    kubernetes_schemas.schema_contents = functools.cache(kubernetes_schemas.schema_contents)
    seen: dict[str, list[str]] = {}
    violations = list(component_violations())
    try:
        for folder in kustomizations():
            violations += check(folder, seen)
    except RenderError as error:
        violations.append(str(error))
    for words in violations:
        print(f"  {words}", file=sys.stderr)
    print(f"{len(seen)} distinct objects against Kubernetes {VERSION}, strictly: {len(violations)} violations")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())

"""Optional manifests that no kustomization renders: they name what there is, and what the code understands."""

from __future__ import annotations

from typing import Any

import yaml
from tests.deploy.manifests import objects, selects, workload
from tools.check_manifests import K8S, policy_violations, schema_violations

from externalscaler import externalscaler_pb2
from penguin_queue.servicers.scaler import _watched

EXAMPLE = K8S / "examples" / "worker-scaled-object.yaml"


def documents() -> dict[str, dict[str, Any]]:
    """The example's objects by kind."""
    return {found["kind"]: found for found in yaml.safe_load_all(EXAMPLE.read_text())}


def test_workers_are_scaled_by_what_the_queue_understands() -> None:
    spec = documents()["ScaledObject"]["spec"]
    assert ("Deployment", spec["scaleTargetRef"]["name"]) in objects("base")
    (trigger,) = spec["triggers"]
    metadata = dict(trigger["metadata"])
    port = objects("base")["Service", "queue"]["spec"]["ports"][0]["port"]
    assert metadata.pop("scalerAddress") == f"queue:{port}"
    watched = _watched(externalscaler_pb2.ScaledObjectRef(scalerMetadata=metadata))
    assert (watched.kinds, watched.target, watched.activation) == (frozenset({"email.send"}), 500, 0)
    assert metadata.keys() <= {"kinds", "queue", "target", "activation"}


def test_the_way_for_the_autoscaler_leads_to_the_queue_alone() -> None:
    policy = documents()["NetworkPolicy"]
    assert [*schema_violations(policy), *policy_violations(policy)] == []
    labels = workload("base", "Deployment", "queue").labels
    assert selects(policy["spec"]["podSelector"], labels)
    assert not selects(policy["spec"]["podSelector"], workload("base", "Job", "queue-migration").labels)
    (rule,) = policy["spec"]["ingress"]
    (peer,) = rule["from"]
    assert {"namespaceSelector", "podSelector"} == peer.keys()

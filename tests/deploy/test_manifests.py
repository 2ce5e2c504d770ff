"""The manifests say what the code says: its variables, ports, commands, probes and limits, in the base and in the overlay."""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
from functools import cache
from pathlib import PurePosixPath
from typing import Any

import pytest
from pydantic import AliasChoices
from pydantic_settings import BaseSettings
from tests.deploy.manifests import (
    CLIENTS,
    KUSTOMIZATIONS,
    TIERS,
    Workload,
    objects,
    of_kind,
    selects,
    workload,
    workloads,
)
from tools.check_manifests import K8S, containers_of, pod_of
from tools.list_distributions import IMAGES, workspace

from penguin_chassis import server, telemetry

pytestmark = pytest.mark.parametrize("where", KUSTOMIZATIONS)
every_tier = pytest.mark.parametrize("tier", TIERS)
every_client = pytest.mark.parametrize("client", CLIENTS)

# Who reads which settings. The migration's are apart: what it is told, the server must never be.
MIGRATION = "MigrateConfig"
CLIENT_SETTINGS: dict[str, dict[str, tuple[str, ...]]] = {
    "relay": {"penguin_orchestrator.config": ("PlatformConfig", "RelayConfig")},
    "worker": {"penguin_orchestrator.config": ("PlatformConfig",), "penguin_worker.config": ("WorkerConfig",)},
}


def settings_of(*modules: str) -> list[type[BaseSettings]]:
    """The settings classes that these modules know. A module that does not exist is an error, and is to be seen."""
    values = [value for module in modules for value in vars(importlib.import_module(module)).values()]
    found = [v for v in values if isinstance(v, type) and issubclass(v, BaseSettings) and v is not BaseSettings]
    assert found, f"no settings in {modules}"
    return found


def serving_settings(tier: str) -> list[type[BaseSettings]]:
    """What a tier's server reads."""
    return [s for s in settings_of(f"penguin_{tier}.config") if s.__name__ != MIGRATION]


def client_settings(client: str) -> list[type[BaseSettings]]:
    """What the relay or the worker reads."""
    wanted = {name for names in CLIENT_SETTINGS[client].values() for name in names}
    found = [s for s in settings_of(*CLIENT_SETTINGS[client]) if s.__name__ in wanted]
    assert {s.__name__ for s in found} == wanted
    return found


def variables(settings: list[type[BaseSettings]], *, required: bool = False) -> set[str]:
    """The variables that these settings read: each by the first name it goes by."""
    names = set()
    for each in settings:
        for field in each.model_fields.values():
            alias = field.validation_alias
            name = alias.choices[0] if isinstance(alias, AliasChoices) else alias
            assert isinstance(name, str), f"{each.__name__} has a field without a variable's name"
            if field.is_required() or not required:
                names.add(name)
    return names


def read(settings: type[BaseSettings], environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """The settings as the container would read them."""
    for name in os.environ.keys() & variables([settings]):
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return settings()


def main_settings(tier: str) -> type[BaseSettings]:
    """The settings that hold the tier's listen address."""
    (found,) = [s for s in serving_settings(tier) if "listen" in s.model_fields]
    return found


def default_port(tier: str) -> int:
    """The port the code listens on when it is told nothing."""
    return int(str(main_settings(tier).model_fields["listen"].default).rpartition(":")[2])


@cache
def help_of(*words: str) -> subprocess.CompletedProcess[str]:
    """What a command says of itself."""
    argv = [sys.executable, *words, "--help"]
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)


@every_tier
def test_a_server_is_given_what_it_reads_and_nothing_else(
    where: str, tier: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = serving_settings(tier)
    environment = workload(where, "Deployment", tier).environment
    assert environment.keys() - variables(settings) == set()
    assert variables(settings, required=True) - environment.keys() == set()
    for each in settings:
        read(each, environment, monkeypatch)


@every_tier
def test_a_migration_is_given_the_owner_and_a_server_never_is(
    where: str, tier: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (owner,) = [s for s in settings_of(f"penguin_{tier}.config") if s.__name__ == MIGRATION]
    job = workload(where, "Job", f"{tier}-migration")
    assert variables([owner]) <= job.environment.keys()
    assert job.environment.keys() <= variables(settings_of(f"penguin_{tier}.config"))
    assert not job.environment.keys() & variables([main_settings(tier)])
    read(owner, job.environment, monkeypatch)
    assert not variables([owner]) & workload(where, "Deployment", tier).environment.keys()


@every_client
def test_a_client_is_given_what_it_reads_and_nothing_else(
    where: str, client: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = client_settings(client)
    environment = workload(where, "Deployment", client).environment
    assert environment.keys() - variables(settings) == set()
    assert variables(settings, required=True) - environment.keys() == set()
    for each in settings:
        read(each, environment, monkeypatch)


@every_tier
def test_one_port_everywhere(where: str, tier: str, monkeypatch: pytest.MonkeyPatch) -> None:
    port = default_port(tier)
    deployment = workload(where, "Deployment", tier)
    listen = read(main_settings(tier), deployment.environment, monkeypatch).listen
    assert listen == f"[::]:{port}"
    (exposed,) = deployment.container["ports"]
    assert exposed["containerPort"] == port
    for moment in ("startup", "liveness", "readiness"):
        assert deployment.container[f"{moment}Probe"]["grpc"]["port"] == port
    service = objects(where)["Service", tier]["spec"]
    assert [(p["port"], p["targetPort"]) for p in service["ports"]] == [(port, exposed["name"])]
    (rule,) = objects(where)["NetworkPolicy", tier]["spec"]["ingress"]
    assert [p["port"] for p in rule["ports"]] == [port]


@every_tier
def test_probes_ask_what_the_chassis_answers(where: str, tier: str) -> None:
    container = workload(where, "Deployment", tier).container
    asked = {m: container[f"{m}Probe"]["grpc"]["service"] for m in ("startup", "liveness", "readiness")}
    assert asked == {"startup": server.LIVENESS, "liveness": server.LIVENESS, "readiness": server.READINESS}


@every_tier
def test_a_service_is_headless_and_finds_its_servers(where: str, tier: str) -> None:
    spec = objects(where)["Service", tier]["spec"]
    assert spec["clusterIP"] == "None"
    assert selects({"matchLabels": spec["selector"]}, workload(where, "Deployment", tier).labels)
    # A Service must not hand calls to a pod that only migrates.
    assert not selects({"matchLabels": spec["selector"]}, workload(where, "Job", f"{tier}-migration").labels)


@every_client
@every_tier
def test_a_client_is_told_where_each_tier_is(where: str, client: str, tier: str) -> None:
    environment = workload(where, "Deployment", client).environment
    assert environment[f"{tier.upper()}_ADDR"] == f"{tier}:{default_port(tier)}"
    assert ("Service", tier) in objects(where)


@every_tier
def test_servers_share_the_tiers_connections(where: str, tier: str, monkeypatch: pytest.MonkeyPatch) -> None:
    deployment = workload(where, "Deployment", tier)
    config = main_settings(tier)
    most = (
        deployment.manifest["spec"]["replicas"] + deployment.manifest["spec"]["strategy"]["rollingUpdate"]["maxSurge"]
    )
    given = read(config, deployment.environment, monkeypatch)
    pools = [name for name in config.model_fields if name.endswith("pool_max")]
    assert "pool_max" in pools
    for name in pools:
        assert most * getattr(given, name) <= config.model_fields[name].default, name


@every_tier
def test_a_server_has_time_to_drain(where: str, tier: str, monkeypatch: pytest.MonkeyPatch) -> None:
    deployment = workload(where, "Deployment", tier)
    drain = read(main_settings(tier), deployment.environment, monkeypatch).drain_s
    assert deployment.pod["terminationGracePeriodSeconds"] >= drain + 2 * telemetry.SHUTDOWN_S + 5


def test_a_worker_has_time_to_hand_over_what_it_has_begun(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    deployment = workload(where, "Deployment", "worker")
    (config,) = [s for s in client_settings("worker") if s.__name__ == "WorkerConfig"]
    given = read(config, deployment.environment, monkeypatch)
    assert given.smtp_reply_timeout_s < given.drain_s
    assert deployment.pod["terminationGracePeriodSeconds"] >= given.drain_s + 2 * telemetry.SHUTDOWN_S + 5


@every_tier
@pytest.mark.parametrize("command", ["serve", "migrate"])
def test_a_tiers_commands_exist(where: str, tier: str, command: str) -> None:
    kind, name = ("Deployment", tier) if command == "serve" else ("Job", f"{tier}-migration")
    words = workload(where, kind, name).container["command"]
    assert words == ["python", "-m", f"penguin_{tier}", command]
    told = help_of(*words[1:])
    assert told.returncode == 0, told.stderr
    assert command in told.stdout


@every_client
def test_a_clients_module_exists(where: str, client: str) -> None:
    interpreter, flag, module = workload(where, "Deployment", client).container["command"]
    assert (interpreter, flag) == ("python", "-m")
    found = importlib.util.find_spec(module)
    assert found is not None
    assert found.submodule_search_locations is None or importlib.util.find_spec(f"{module}.__main__") is not None


def test_files_a_container_is_told_of_are_mounted(where: str) -> None:
    for each in workloads(where):
        mounts = [PurePosixPath(mount["mountPath"]) for mount in each.container.get("volumeMounts", [])]
        volumes = {volume["name"] for volume in each.pod.get("volumes", [])}
        assert {mount["name"] for mount in each.container.get("volumeMounts", [])} == volumes
        for name, value in each.environment.items():
            if name.endswith("_PATH"):
                # As a directory: a file mounted by itself would never see what changes.
                assert PurePosixPath(value).parent in mounts, f"{name} of {each.manifest['metadata']['name']}"


@pytest.mark.parametrize("image", IMAGES)
def test_who_writes_files_has_a_place_for_them(where: str, image: str) -> None:
    sources = (workspace()[IMAGES[image]] / "src").rglob("*.py")
    writes = any("import tempfile" in path.read_text() for path in sources)
    deployment = workload(where, "Deployment", image)
    empty = {volume["name"] for volume in deployment.pod.get("volumes", []) if "emptyDir" in volume}
    mounts = {m["mountPath"] for m in deployment.container.get("volumeMounts", []) if m["name"] in empty}
    assert mounts == ({"/tmp"} if writes else set())


def test_the_relay_keeps_the_ledger_of_erasures_and_its_copy_on_two_volumes(where: str) -> None:
    relay = workload(where, "Deployment", "relay")
    mounts = {mount["mountPath"]: mount for mount in relay.container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in relay.pod["volumes"]}

    def volume_of(variable: str, *, written: bool) -> dict[str, Any]:
        mount = mounts[str(PurePosixPath(relay.environment[variable]).parent)]
        assert mount.get("readOnly", False) is not written
        volume: dict[str, Any] = volumes[mount["name"]]
        return volume

    claims = [
        volume_of(variable, written=True)["persistentVolumeClaim"]["claimName"]
        for variable in ("ERASURE_LEDGER_PATH", "ERASURE_LEDGER_COPY_PATH")
    ]
    assert len(set(claims)) == 2
    assert "secret" in volume_of("ERASURE_LEDGER_KEY_PATH", written=False)
    for claim in claims:
        modes = objects(where)["PersistentVolumeClaim", claim]["spec"]["accessModes"]
        assert modes == ["ReadWriteMany"] or relay.manifest["spec"]["replicas"] == 1
    # A file that root alone may write to is none for a pod that is not root.
    assert relay.pod["securityContext"]["fsGroup"] == relay.pod["securityContext"]["runAsUser"]
    for each in workloads(where):
        if each.manifest["metadata"]["name"] != "relay":
            assert not any("persistentVolumeClaim" in volume for volume in each.pod.get("volumes", []))


def test_every_pod_has_a_policy_of_its_own_and_the_deny_behind_it(where: str) -> None:
    policies = {m["metadata"]["name"]: m["spec"]["podSelector"] for m in of_kind(where, "NetworkPolicy")}
    for each in workloads(where):
        name = each.manifest["metadata"]["name"]
        assert {p for p, selector in policies.items() if selects(selector, each.labels)} == {name, "deny-by-default"}


def _reached(where: str, policy: str) -> set[str]:
    """Names and clusters that a policy lets its pods call, within the namespace."""
    found = set()
    for rule in objects(where)["NetworkPolicy", policy]["spec"]["egress"]:
        for peer in rule["to"]:
            assert "ipBlock" not in peer
            if "namespaceSelector" not in peer:
                labels = peer["podSelector"]["matchLabels"]
                found.add(labels.get("cnpg.io/cluster") or labels["app.kubernetes.io/name"])
    return found


@every_tier
def test_a_tier_reaches_its_own_database_and_no_tier(where: str, tier: str) -> None:
    assert _reached(where, tier) == {f"{tier}-db"} | ({"queue-redis"} if tier == "queue" else set())
    assert _reached(where, f"{tier}-migration") == {f"{tier}-db"}
    assert objects(where)["NetworkPolicy", f"{tier}-migration"]["spec"]["ingress"] == []


@every_client
def test_a_client_reaches_the_tiers_and_no_database(where: str, client: str) -> None:
    besides = {"relay": {"token-issuer"}, "worker": {"token-issuer", "smtp-relay"}}[client]
    assert _reached(where, client) == set(TIERS) | besides
    (tier_rule,) = objects(where)["NetworkPolicy", "oltp"]["spec"]["ingress"]
    (peer,) = tier_rule["from"]
    assert selects(peer["podSelector"], workload(where, "Deployment", client).labels)


def test_no_tier_is_a_client_of_tiers(where: str) -> None:
    for tier in TIERS:
        assert "penguin.io/tier-client" not in workload(where, "Deployment", tier).labels


def test_budgets_and_accounts_belong_to_what_they_name(where: str) -> None:
    for name in (*TIERS, *CLIENTS):
        deployment = workload(where, "Deployment", name)
        assert selects(objects(where)["PodDisruptionBudget", name]["spec"]["selector"], deployment.labels)
    for each in workloads(where):
        assert each.pod["serviceAccountName"] == each.manifest["metadata"]["name"]
        assert ("ServiceAccount", each.pod["serviceAccountName"]) in objects(where)
        for constraint in each.pod.get("topologySpreadConstraints", []):
            assert selects(constraint["labelSelector"], each.labels)


def _image_of(each: Workload) -> tuple[str, str]:
    name, _, tag = each.container["image"].partition(":")
    return name.removeprefix("penguin-"), tag


def test_images_are_ours_and_the_bases_are_of_this_version(where: str) -> None:
    for each in workloads(where):
        image, tag = _image_of(each)
        assert image == each.manifest["metadata"]["labels"]["app.kubernetes.io/name"]
        if where == "base":
            assert f'version = "{tag}"' in (workspace()[IMAGES[image]] / "pyproject.toml").read_text()


def test_the_readme_names_everything_that_must_be_there_first(where: str) -> None:
    readme = (K8S / "README.md").read_text()
    wanted: set[str] = set()
    for manifest in [each.manifest for each in workloads(where)]:
        pod = pod_of(manifest)
        assert pod is not None
        for container in containers_of(pod):
            refs = [v["valueFrom"]["secretKeyRef"] for v in container.get("env", []) if "valueFrom" in v]
            wanted |= {word for ref in refs for word in (ref["name"], ref["key"])}
        for volume in pod.get("volumes", []):
            if "secret" in volume:
                wanted.add(volume["secret"]["secretName"])
            elif "configMap" in volume:
                wanted.add(volume["configMap"]["name"])
    assert {word for word in wanted if f"`{word}`" not in readme} == set()

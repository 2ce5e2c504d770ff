"""Each Dockerfile holds its own distribution and nothing else of the workspace, runs as nobody in particular, and does what
the manifests say. No container engine is needed, and none is used: the files are read, not built."""

from __future__ import annotations

import ast
import json
import re
import sys
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name
from tests.deploy.manifests import TIERS, workload
from tools.list_distributions import IMAGES, LISTS, TARGET, closure, lists, workspace
from tools.pinned import entries, names, pinned

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "deploy" / "docker"
every_image = pytest.mark.parametrize("image", IMAGES)


@dataclass
class Stage:
    """One FROM and what follows it: (instruction, its words)."""

    base: str
    name: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def all(self, instruction: str) -> list[str]:
        return [words for found, words in self.steps if found == instruction]


def stages(image: str) -> list[Stage]:
    """A Dockerfile's stages, comments gone and continued lines joined."""
    text = (DOCKER / f"{image}.Dockerfile").read_text()
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    found: list[Stage] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        instruction, _, words = line.partition(" ")
        if instruction == "FROM":
            base, _, name = words.partition(" AS ")
            found.append(Stage(base, name))
        else:
            found[-1].steps.append((instruction, words.strip()))
    return found


@every_image
def test_two_stages_of_one_exact_python(image: str) -> None:
    build, final = stages(image)
    assert build.name == "build"
    assert build.base == final.base
    assert re.fullmatch(rf"python:{re.escape(TARGET['python_version'])}-slim-[a-z]+", final.base)


@every_image
def test_the_build_takes_its_own_distributions_and_no_others(image: str) -> None:
    build, _ = stages(image)
    ours, _ = closure(IMAGES[image])
    paths = {str(workspace()[name].relative_to(ROOT)) for name in ours}
    copied = [words.split() for words in build.all("COPY")]
    assert copied[0] == ["requirements.lock", "tools/pinned.py", f"deploy/docker/distributions/{image}.txt", "./"]
    assert {source for source, target in copied[1:] if source == target} == paths
    assert len(copied) == len(paths) + 1
    installs = [words for words in build.all("RUN") if "pip install --no-deps" in words]
    assert len(installs) == 1
    assert {word[2:] for word in installs[0].split() if word.startswith("./")} == paths
    assert build.all("ADD") == []


@every_image
def test_what_comes_from_elsewhere_is_pinned_by_hash(image: str) -> None:
    build, _ = stages(image)
    fetches = [run for run in build.all("RUN") if "pip install" in run and "./libs" not in run]
    assert len(fetches) == 1
    assert "--require-hashes --no-deps --only-binary :all: --requirement pinned.txt" in fetches[0]
    listed = (LISTS / f"{image}.txt").read_text()
    chosen = entries(pinned((ROOT / "requirements.lock").read_text(), listed))
    assert list(chosen) == names(listed)
    assert all(re.match(r"[a-z0-9-]+==\S+", entry) and "--hash=sha256:" in entry for entry in chosen.values())


@every_image
def test_what_runs_is_nobody_and_holds_no_source(image: str) -> None:
    _, final = stages(image)
    assert final.all("COPY") == ["--from=build /opt/venv /opt/venv"]
    assert final.all("RUN") == []
    (user,) = final.all("USER")
    identity, _, group = user.partition(":")
    security = workload("base", "Deployment", image).pod["securityContext"]
    assert (int(identity), int(group)) == (security["runAsUser"], security["runAsGroup"])
    assert int(identity) > 0


@every_image
def test_it_does_what_the_manifests_say(image: str) -> None:
    _, final = stages(image)
    container = workload("base", "Deployment", image).container
    (command,) = final.all("CMD")
    assert json.loads(command) == container["command"]
    assert final.all("ENTRYPOINT") == []
    assert [int(port) for port in final.all("EXPOSE")] == [p["containerPort"] for p in container.get("ports", [])]
    assert (image in TIERS) == bool(final.all("EXPOSE"))


@every_image
def test_the_context_lets_in_what_is_copied(image: str) -> None:
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for words in stages(image)[0].all("COPY"):
        for source in words.split()[:-1]:
            assert any(Path(source).match(a) or Path(source, "src").match(a) for a in allowed), source
    assert not any("tests" in pattern or "deploy/k8s" in pattern for pattern in allowed)


def test_the_lists_are_what_the_distributions_need() -> None:
    stale = [path.name for path, text in lists() if not path.exists() or path.read_text() != text]
    assert stale == [], "run tools/list_distributions.py"


def test_a_distribution_that_is_not_locked_is_refused() -> None:
    with pytest.raises(KeyError, match="nothing-of-the-kind"):
        pinned((ROOT / "requirements.lock").read_text(), "grpcio\nnothing-of-the-kind\n")


@cache
def imported(source: Path) -> frozenset[str]:
    """Top-level names that the modules below `source` import."""
    found = set()
    for path in source.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                found.add(node.module.partition(".")[0])
    return frozenset(found)


@every_image
def test_every_import_is_in_the_image(image: str) -> None:
    ours, others = closure(IMAGES[image])
    owners = {module: {canonicalize_name(d) for d in found} for module, found in packages_distributions().items()}
    packages = {"penguin", "externalscaler", "buf", *(name.replace("-", "_") for name in ours)}
    for distribution in ours:
        for module in imported(workspace()[distribution] / "src") - packages - sys.stdlib_module_names:
            assert owners.get(module, set()) & others, f"{distribution} imports {module}, which {image} lacks"

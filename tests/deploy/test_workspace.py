"""The workspace agrees with itself: one version of everything, every distribution under the import rules, help for every
target that is meant for people."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from tools.list_distributions import workspace
from tools.pinned import entries

ROOT = Path(__file__).resolve().parents[2]
ROOT_PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCKED = {
    name: match[1]
    for name, entry in entries((ROOT / "requirements.lock").read_text()).items()
    if (match := re.match(r"[a-z0-9-]+==(\S+)", entry))
}


@pytest.mark.parametrize("distribution", workspace())
def test_pins_are_exact_and_those_of_the_lock(distribution: str) -> None:
    project = tomllib.loads((workspace()[distribution] / "pyproject.toml").read_text())["project"]
    for requirement in map(Requirement, project["dependencies"]):
        name = canonicalize_name(requirement.name)
        if name not in workspace():
            assert str(requirement.specifier) == f"=={LOCKED[name]}", name


def test_the_tools_are_locked() -> None:
    for requirement in map(Requirement, ROOT_PROJECT["dependency-groups"]["dev"]):
        assert requirement.specifier.contains(LOCKED[canonicalize_name(requirement.name)]), requirement.name


def test_every_distribution_is_under_the_import_rules() -> None:
    rules = ROOT_PROJECT["tool"]["importlinter"]
    packages = {name.replace("-", "_") for name in workspace()} - {"penguin_contracts"}
    assert set(rules["root_packages"]) == packages
    tiers = {f"penguin_{path.name}" for path in (ROOT / "services").iterdir() if (path / "pyproject.toml").exists()}
    by_id = {contract["id"]: contract for contract in rules["contracts"]}
    assert set(by_id["tiers"]["modules"]) == tiers
    assert set(by_id["rooms"]["containers"]) == tiers
    assert set(by_id["libs"]["source_modules"]) == packages - tiers
    for room in ("domain", "store"):
        assert {f"{tier}.{room}" for tier in tiers} <= set(by_id[room]["source_modules"])
    assert not any("ignore_imports" in contract for contract in by_id.values())


def test_every_distribution_is_known_to_the_type_checker() -> None:
    known = {path.removeprefix("$MYPY_CONFIG_FILE_DIR/") for path in ROOT_PROJECT["tool"]["mypy"]["mypy_path"]}
    assert known == {f"{path.relative_to(ROOT)}/src" for path in workspace().values()}


def test_help_lists_every_target_meant_for_people() -> None:
    makefile = (ROOT / "Makefile").read_text()
    described = dict(re.findall(r"^([a-z-]+):[^\n]*?## ([^\n]+)$", makefile, re.MULTILINE))
    phony = set(re.findall(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)[0].split())
    assert described.keys() <= phony
    assert phony <= set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    told = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=30).stdout
    for target, words in described.items():
        assert re.search(rf"^{target}\s+{re.escape(words)}$", told, re.MULTILINE), target
    bare = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=30).stdout
    assert bare == told

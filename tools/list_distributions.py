"""Writes deploy/docker/distributions/<image>.txt: what each image needs of the locked distributions, found by following the
requirements of the one it is built for. Versions and hashes stay in requirements.lock alone. `--check` writes nothing."""

from __future__ import annotations

import argparse
import sys
import tomllib
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
LISTS = ROOT / "deploy" / "docker" / "distributions"
# Image -> the distribution that it runs.
IMAGES = {
    "oltp": "penguin-oltp",
    "content": "penguin-content",
    "olap": "penguin-olap",
    "queue": "penguin-queue",
    "notifications": "penguin-notifications",
    "relay": "penguin-orchestrator",
    "worker": "penguin-worker",
}
HEADER = "# What this image takes from requirements.lock. Written by tools/list_distributions.py.\n"
# Where images run, whatever machine this runs on. Must be the Dockerfiles' Python.
TARGET: dict[str, str] = {
    "implementation_name": "cpython",
    "implementation_version": "3.11.0",
    "os_name": "posix",
    "platform_machine": "x86_64",
    "platform_release": "",
    "platform_system": "Linux",
    "platform_version": "",
    "platform_python_implementation": "CPython",
    "python_full_version": "3.11.0",
    "python_version": "3.11",
    "sys_platform": "linux",
}


def workspace() -> dict[str, Path]:
    """Our own distributions and where they are."""
    manifests = [*ROOT.glob("libs/*/pyproject.toml"), *ROOT.glob("services/*/pyproject.toml")]
    return {str(tomllib.loads(path.read_text())["project"]["name"]): path.parent for path in sorted(manifests)}


def _wants(distribution: str, ours: dict[str, Path]) -> list[str]:
    """A distribution's requirements, as it states them; ours from the tree, since an installed copy may be older."""
    if distribution in ours:
        project = tomllib.loads((ours[distribution] / "pyproject.toml").read_text())["project"]
        return list(project["dependencies"])
    try:
        return requires(distribution) or []
    except PackageNotFoundError:
        # Needed on the target only: its entry in the lock is all that is known of it here.
        return []


def _applies(requirement: Requirement, extras: Iterable[str]) -> bool:
    marker = requirement.marker
    return marker is None or any(marker.evaluate(TARGET | {"extra": extra}) for extra in (*extras, ""))


def closure(distribution: str) -> tuple[set[str], set[str]]:
    """All that a distribution needs, itself among it: ours, and others'."""
    ours = workspace()
    seen: dict[str, set[str]] = {}
    todo: list[tuple[str, set[str]]] = [(distribution, set())]
    while todo:
        name, extras = todo.pop()
        if name in seen and extras <= seen[name]:
            continue
        seen[name] = seen.get(name, set()) | extras
        needed = [r for r in map(Requirement, _wants(name, ours)) if _applies(r, seen[name])]
        todo += [(canonicalize_name(r.name), set(r.extras)) for r in needed]
    return seen.keys() & ours.keys(), seen.keys() - ours.keys()


def lists() -> Iterator[tuple[Path, str]]:
    """Each image's file and what belongs in it."""
    for image, distribution in IMAGES.items():
        _, others = closure(distribution)
        yield LISTS / f"{image}.txt", HEADER + "".join(f"{name}\n" for name in sorted(others))


def main() -> int:
    """Compare or write; 1 where a list is not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a list differs")
    check = parser.parse_args().check
    wrong = 0
    for path, text in lists():
        if (path.read_text() if path.exists() else "") == text:
            continue
        wrong += 1
        if check:
            print(f"{path.relative_to(ROOT)} differs; run tools/list_distributions.py", file=sys.stderr)
        else:
            path.write_text(text)
            print(f"wrote {path.relative_to(ROOT)}")
    return 1 if check and wrong else 0


if __name__ == "__main__":
    sys.exit(main())

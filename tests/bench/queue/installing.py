"""Brings the peers into a scratch folder, each at its pinned version; what is there already is used again."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.bench.queue.roster import NODE_LEAST, NODE_WHEEL, NPM_PINS, PYTHON_PINS

SCRATCH = Path(".local") / "bench-queue"
DRIVERS = Path(__file__).parent / "peers"
UV = Path(".tools") / "bin" / "uv"
_VERSION = re.compile(r"v(\d+)\.(\d+)")


@dataclass(frozen=True)
class Installed:
    """Interpreters of the peers; without Node its peers are left out."""

    python: Path
    node: Path | None
    drivers: Path


def install() -> Installed:
    """Install what is missing. Raises subprocess.CalledProcessError where a package is not to be had."""
    folder = SCRATCH.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    python = folder / "python" / "bin" / "python"
    if not _kept(folder / "python.json", PYTHON_PINS):
        print("installing the Python peers", flush=True)
        shutil.rmtree(folder / "python", ignore_errors=True)
        _run([str(UV), "venv", "--quiet", "--python", sys.executable, str(folder / "python")])
        _run([str(UV), "pip", "install", "--quiet", "--compile-bytecode", "--python", str(python), *PYTHON_PINS])
        _keep(folder / "python.json", PYTHON_PINS)
    node = _node(python)
    drivers = folder / "node"
    if node is not None:
        _install_npm(node, drivers)
    return Installed(python, node, drivers)


def _node(python: Path) -> Path | None:
    """The pinned Node where its wheel fits this machine, else one on the PATH that is new enough."""
    own = python.with_name("node")
    if not own.exists():
        wheel = [str(UV), "pip", "install", "--quiet", "--python", str(python), NODE_WHEEL]
        subprocess.run(wheel, check=False, capture_output=True)
    for candidate in (str(own) if own.exists() else None, shutil.which("node")):
        if candidate and Path(candidate).with_name("npm").exists() and _version(candidate) >= NODE_LEAST:
            return Path(candidate)
    return None


def _version(node: str) -> tuple[int, ...]:
    reply = subprocess.run([node, "--version"], check=False, capture_output=True, text=True)
    match = _VERSION.match(reply.stdout)
    return tuple(map(int, match.groups())) if match else (0,)


def _install_npm(node: Path, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    if not _kept(folder / "pins.json", NPM_PINS):
        print("installing the Node peers", flush=True)
        shutil.rmtree(folder / "node_modules", ignore_errors=True)
        (folder / "package.json").write_text('{"private": true}\n')
        (folder / "package-lock.json").unlink(missing_ok=True)
        flags = ["--no-audit", "--no-fund", "--ignore-scripts", "--save-exact", "--loglevel=error"]
        path = f"{node.parent}{os.pathsep}{os.environ.get('PATH', '')}"
        _run([str(node.with_name("npm")), "install", *flags, *NPM_PINS], cwd=folder, path=path)
        _keep(folder / "pins.json", NPM_PINS)
    # Node looks for packages from where a script lies.
    for driver in DRIVERS.glob("*.mjs"):
        shutil.copy(driver, folder)


def _run(words: list[str], cwd: Path | None = None, path: str | None = None) -> None:
    subprocess.run(words, check=True, cwd=cwd, env=os.environ | ({"PATH": path} if path else {}))


def _kept(stamp: Path, pins: tuple[str, ...]) -> bool:
    return stamp.exists() and json.loads(stamp.read_text()) == list(pins)


def _keep(stamp: Path, pins: tuple[str, ...]) -> None:
    stamp.write_text(json.dumps(list(pins)))

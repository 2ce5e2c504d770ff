"""Generates libs/contracts from proto/ and guards the landed contracts against breaking changes.

Refuses to edit by hand: `--check` fails when what is committed is not what the contracts generate.
"""

from __future__ import annotations

import argparse
import filecmp
import importlib.resources
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTO = ROOT / "proto"
TARGET = ROOT / "libs" / "contracts" / "src"
LANDED = PROTO / "landed.binpb"
BIN = Path(sys.executable).parent
PACKAGES = ("penguin", "externalscaler", "buf")


def run(*argv: str | Path, check: bool = True) -> subprocess.CompletedProcess[bytes]:
    """Run a tool of the environment, its output shown only where it fails by raising."""
    env = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run([str(a) for a in argv], cwd=ROOT, env=env, check=check)


def generate(target: Path) -> None:
    """Write stubs for every .proto below proto/ into the folder `target`."""
    well_known = Path(str(importlib.resources.files("grpc_tools"))) / "_proto"
    sources = sorted(PROTO.rglob("*.proto"))
    run(
        BIN / "python", "-m", "grpc_tools.protoc", f"-I{PROTO}", f"-I{well_known}",
        f"--python_out={target}", f"--grpc_python_out={target}",
        f"--mypy_out=quiet:{target}", f"--mypy_grpc_out=quiet:{target}",
        *sources,
    )  # fmt: skip
    for stub in target.rglob("*_pb2_grpc.py*"):
        # protoc writes a gRPC module for every file; those without a service hold nothing.
        text = stub.read_text()
        if "class " not in text:
            stub.unlink()


def image(out: Path) -> None:
    """Write the contracts as one descriptor image, without comments or positions."""
    run(BIN / "buf", "build", "--exclude-source-info", "-o", out)


def breaking() -> bool:
    """Whether proto/ breaks what has landed; prints each break."""
    if not LANDED.exists():
        return False
    return run(BIN / "buf", "breaking", "--against", LANDED, check=False).returncode != 0


def differences(left: Path, right: Path) -> list[str]:
    """Paths (relative) that are missing on one side or differ."""
    names = {p.relative_to(side) for side in (left, right) for p in side.rglob("*") if p.is_file()}
    names = {n for n in names if n.suffix in {".py", ".pyi"} and "__pycache__" not in n.parts}
    return sorted(
        str(n)
        for n in names
        if not (left / n).exists() or not (right / n).exists() or not filecmp.cmp(left / n, right / n, shallow=False)
    )


def check() -> int:
    """Compare a fresh generation with what is committed."""
    with tempfile.TemporaryDirectory() as tmp:
        generate(Path(tmp))
        stale = [f"{p}: {d}" for p in PACKAGES for d in differences(Path(tmp) / p, TARGET / p)]
    if stale:
        print("Stale stubs; run `make generate`:", *stale, sep="\n  ")
        return 1
    print("Stubs are those of proto/.")
    return 0


def main() -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail if the committed stubs are stale")
    parser.add_argument("--breaking", action="store_true", help="fail if proto/ breaks the landed contracts")
    parser.add_argument("--land", action="store_true", help="make today's contracts the landed ones")
    options = parser.parse_args()
    if options.check:
        return check()
    if options.breaking:
        return int(breaking())
    if options.land:
        image(LANDED)
        return 0
    for package in PACKAGES:
        for old in (TARGET / package).rglob("*_pb2*"):
            old.unlink()
    with tempfile.TemporaryDirectory() as tmp:
        generate(Path(tmp))
        shutil.copytree(tmp, TARGET, dirs_exist_ok=True)
    return check()


if __name__ == "__main__":
    sys.exit(main())

"""Runs mypy (strict, as pyproject.toml says) over every source and every test in one go, so that it is one cache and one
answer. The generated stubs are read, not checked. Arguments are handed to mypy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GENERATED = ROOT / "libs" / "contracts"


def folders() -> list[Path]:
    """Whatever holds Python of ours; a new distribution is found by itself."""
    found = [path for kind in ("src", "tests") for top in ("libs", "services") for path in ROOT.glob(f"{top}/*/{kind}")]
    found = [path for path in found if GENERATED not in path.parents]
    found += [ROOT / "tools", ROOT / "tests"]
    return sorted(path for path in found if any(path.rglob("*.py")))


def main() -> int:
    """mypy's own exit status."""
    paths = [str(path.relative_to(ROOT)) for path in folders()]
    print(f"mypy over {', '.join(paths)}")
    # Modules are named from the root or from a `src`, so tests of the same name in two tiers do not collide.
    return subprocess.run([sys.executable, "-m", "mypy", *sys.argv[1:], *paths], cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())

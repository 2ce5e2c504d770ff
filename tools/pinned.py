"""Prints those entries of requirements.lock that one image needs, hashes and all: `pinned.py requirements.lock oltp.txt`. It
chooses no version and knows no index; Python's standard library is all it needs."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

# An entry begins where a line is not indented; its hashes are the indented lines below it.
_ENTRY = re.compile(r"^[a-z0-9][^\n]*\n(?:[ \t][^\n]*\n)*", re.MULTILINE)
_NAME = re.compile(r"^[a-z0-9-]+")


def names(listed: str) -> list[str]:
    """The distributions that a list asks for: one a line, lines that begin with # aside."""
    return [line.strip() for line in listed.splitlines() if line.strip() and not line.startswith("#")]


def entries(lock: str) -> dict[str, str]:
    """The lock's entries by distribution."""
    found = {}
    for match in _ENTRY.finditer(lock):
        name = _NAME.match(match[0])
        if name is not None:
            found[name[0]] = match[0]
    return found


def pinned(lock: str, listed: str) -> str:
    """The entries asked for, in the order of the list. Raises KeyError for one that is not locked."""
    locked = entries(lock)
    return "".join(locked[name] for name in names(listed))


def main(argv: Sequence[str]) -> int:
    """Print; 1 where something is not locked."""
    lock, listed = (Path(path).read_text() for path in argv)
    try:
        sys.stdout.write(pinned(lock, listed))
    except KeyError as error:
        print(f"requirements.lock has no {error.args[0]}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Loads named SQL from .sql files that stand beside the store that uses them.

A query begins with a line `-- name: lease_ready` and goes on to the next such line; comments in between are its
documentation. It builds no SQL: what is in the file is what is run.
"""

from __future__ import annotations

import re
from importlib import resources
from types import SimpleNamespace

_NAME = re.compile(r"^-- name: ([a-z][a-z0-9_]*)\s*$", re.MULTILINE)


class Queries(SimpleNamespace):
    """Queries by name, as attributes."""

    def __getattr__(self, name: str) -> str:
        raise AttributeError(f"no query named {name}")

    def names(self) -> dict[str, str]:
        """Every query by its name."""
        return dict(vars(self))


def load(package: str, filename: str) -> Queries:
    """The queries of `filename` in `package`; raises ValueError for a file without names or a name given twice."""
    text = resources.files(package).joinpath(filename).read_text("utf-8")
    parts = _NAME.split(text)
    if len(parts) < 3:
        raise ValueError(f"{package}/{filename} holds no named query")
    found: dict[str, str] = {}
    for name, body in zip(parts[1::2], parts[2::2], strict=True):
        if name in found:
            raise ValueError(f"{package}/{filename} names {name} twice")
        found[name] = body.strip().rstrip(";")
    return Queries(**found)

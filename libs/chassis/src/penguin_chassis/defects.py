"""How a defect of ours is logged: the places it passed through, never a word of what it says."""

from __future__ import annotations

import traceback


def places(error: BaseException) -> list[str]:
    """Where `error` passed through, outermost first, as `file:line function`."""
    return [f"{f.filename.rsplit('/', 1)[-1]}:{f.lineno} {f.name}" for f in traceback.extract_tb(error.__traceback__)]

"""What the command line's tests share."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from rich.console import Console, RenderableType


@pytest.fixture
def text_of() -> Callable[[RenderableType], str]:
    """Anything drawable as plain text, 150 columns wide."""

    def text(drawable: RenderableType) -> str:
        file = io.StringIO()
        Console(width=150, file=file).print(drawable)
        return file.getvalue()

    return text

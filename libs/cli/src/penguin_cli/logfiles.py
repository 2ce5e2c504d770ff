"""Reads the ends of log files, and what is appended to them. It writes none."""

from __future__ import annotations

from pathlib import Path

_CHUNK = 64 * 1024


def last_lines(path: Path, count: int) -> list[str]:
    """The last lines of a log; none where there is no file."""
    if count == 0:
        return []
    try:
        with path.open("rb") as log:
            position = log.seek(0, 2)
            tail = b""
            while position > 0 and tail.count(b"\n") <= count:
                step = min(_CHUNK, position)
                position = log.seek(position - step)
                tail = log.read(step) + tail
    except FileNotFoundError:
        return []
    return tail.decode(errors="replace").splitlines()[-count:]


class Followed:
    """A log being followed: its last lines first, then whole lines as they come. A file that was emptied is begun anew."""

    def __init__(self, path: Path, lines: int) -> None:
        self._path = path
        self._first = last_lines(path, lines)
        self._position = path.stat().st_size if path.exists() else 0
        self._partial = b""

    def new_lines(self) -> list[str]:
        """What has been written since the last call."""
        first, self._first = self._first, []
        try:
            with self._path.open("rb") as log:
                if log.seek(0, 2) < self._position:
                    self._position, self._partial = 0, b""
                log.seek(self._position)
                written = log.read()
        except FileNotFoundError:
            return first
        self._position += len(written)
        *whole, self._partial = (self._partial + written).split(b"\n")
        return first + [line.decode(errors="replace") for line in whole]

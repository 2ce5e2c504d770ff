"""A temporary directory that is removed even if its owner is SIGKILLed, together with the servers whose pid files
lie in it. It guards nothing outside that directory."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

# Reads one word from its owner; if the owner dies first, read fails and the shell cleans up in its place. Where the
# system can tell, only processes that work inside the directory are signalled.
_SCRIPT = r"""
trap '' INT TERM HUP
if read -r farewell; then exit 0; fi
servers() {
  for file in "$1"/*/postmaster.pid "$1"/*/server.pid; do
    [ -f "$file" ] && read -r pid < "$file" && echo "$pid"
  done
}
members() {
  if [ -d /proc/self ]; then
    find /proc/[0-9]*/cwd -prune -lname "$1/*" 2>/dev/null | cut -d/ -f3
  else
    servers "$1"
  fi
}
inside() { members "$1" | grep -qx "$2"; }
for pid in $(members "$1"); do kill -CONT "$pid" 2>/dev/null; done
for pid in $(servers "$1"); do inside "$1" "$pid" && kill -QUIT "$pid" 2>/dev/null; done
tries=0
while [ -n "$(members "$1")" ] && [ "$tries" -lt 50 ]; do sleep 0.1; tries=$((tries + 1)); done
for pid in $(members "$1"); do kill -KILL "$pid" 2>/dev/null; done
rm -rf "$1"
"""


@contextlib.contextmanager
def guarded_directory(prefix: str) -> Iterator[Path]:
    """A private temporary directory for servers that run in subdirectories of it."""
    directory = Path(tempfile.mkdtemp(prefix=prefix)).resolve()
    # Parents of a server's data directory must let its user through; what is inside stays private by itself.
    directory.chmod(0o711)
    guardian = subprocess.Popen(
        ["/bin/sh", "-c", _SCRIPT, "guardian", str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        guardian.communicate(b"done\n", timeout=10)

"""The queue's service as a process whose wall clock is wrong by CLOCK_OFF_S: `python -m tests.failure.serving`.

Tokens are judged by the right time: they go by the wall clock, and were every call refused, little would be tried.
"""

from __future__ import annotations

import os

import jwt  # noqa: F401 - takes the time by name, and is to have the right one
from tests.failure.wrong_clock import set_clock_wrong

set_clock_wrong(float(os.environ["CLOCK_OFF_S"]), honest_to=("penguin_chassis.auth",))

import sys  # noqa: E402

from penguin_queue.__main__ import main  # noqa: E402

if __name__ == "__main__":
    sys.argv[1:] = ["serve"]
    sys.exit(main())

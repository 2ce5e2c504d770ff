"""`penguin`, and `python -m penguin_cli`."""

from __future__ import annotations

from penguin_cli.app import build


def main() -> None:
    """Run the command line; ends the process."""
    build()(prog_name="penguin")


if __name__ == "__main__":
    main()

"""The `penguin` command."""

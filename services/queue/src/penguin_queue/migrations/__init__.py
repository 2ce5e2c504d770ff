"""Forward-only migrations of the Queue database."""

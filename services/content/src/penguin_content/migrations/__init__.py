"""Forward-only migrations of the Content database."""

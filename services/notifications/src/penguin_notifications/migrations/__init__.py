"""Forward-only migrations of the Notifications database."""

"""Forward-only migrations of the OLTP database."""

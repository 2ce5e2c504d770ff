"""Forward-only migrations of the OLAP database."""

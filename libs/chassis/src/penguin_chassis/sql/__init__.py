"""Named queries and the SQL that every tier's first migration includes."""

"""The scenarios on a PostgreSQL server that waits for its disk."""

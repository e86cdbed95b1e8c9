"""Read the database, compare. Never trains anything."""

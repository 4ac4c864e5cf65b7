"""The families' tables, each in a file of its own with its source; only data."""

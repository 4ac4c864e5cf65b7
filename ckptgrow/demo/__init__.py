"""A staged training in a minute, out of what is on every machine with Python."""

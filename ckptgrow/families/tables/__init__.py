"""One family a file: a `Family` and its source, data only."""

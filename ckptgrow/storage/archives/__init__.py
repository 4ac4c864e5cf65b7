"""torch's zip archives, read lazily and written a few megabytes at a time."""

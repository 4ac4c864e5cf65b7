"""The kinds of checkpoints: where each keeps its parts, and how they are read into one `Checkpoint` and written."""

"""The files of torch's distributed checkpoints: metadata, pieces, reading, writing."""

"""Formats of checkpoints: named tensors and training state, read and written a piece at a time. No model."""

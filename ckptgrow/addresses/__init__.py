"""Checkpoints that lie elsewhere: on the Hugging Face hub, or where fsspec reads and writes."""

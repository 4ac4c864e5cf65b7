"""Bytes on the disk: lazy tensors, files that appear whole, torch's archives and pickles. No format is known here."""

"""Turns text into memory-mapped token files: inputs, documents, tokenizers, and the parallel preparation."""

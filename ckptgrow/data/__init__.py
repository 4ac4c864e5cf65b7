"""Text into memory-mapped token files: inputs, tokenizers, the parallel preparation, and what reads the result."""

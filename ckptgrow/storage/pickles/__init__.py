"""Pickles that are read without running anything: stand-ins, NumPy's values."""

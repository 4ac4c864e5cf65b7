"""Converts checkpoints between kinds: the same parameters, moments and steps, under the names of the other kind."""

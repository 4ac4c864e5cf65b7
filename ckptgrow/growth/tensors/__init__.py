"""Grown tensors, made from rows of the old ones when the writer asks for them."""

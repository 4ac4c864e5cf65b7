"""Measures on a tiny model which axes write and read which space: drafts a family's table, and judges those that are.

Nothing here knows how a space grows. What is measured are symmetries of the model's function and ranks and zeros of its
gradients, so that a table can be drafted without one, and judged by another way than the growths that it leads to.
"""

"""Judges a grown checkpoint against the small one, sharing no rule with the growth: names, layouts, spaces
and the record are common, expected values are not.

Two numbers a tensor are measured, none is taken from the growth's rules: how its weight scales (by projection) and how
its gradient scales (by autograd in both real models). What optimizers, learning rates and moments must be follows.
"""

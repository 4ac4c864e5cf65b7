"""Judges a grown checkpoint against the small one by none of the growth's rules.

Two numbers are measured for every tensor: the factor by which its weight was multiplied (by projection on the small
weight), and the factor of its gradient (by autograd in both real models). From these two follows what optimizers,
learning rates and moments must be. Schedules are run by torch's own classes, and configs are completed by transformers'
own. Verification reads files in the same way as growth: formats, the families' names and layouts, and the index maps of
the spaces are common. Nothing of `growth` is imported.
"""

"""Judges a grown checkpoint against the small one by none of the growth's rules.

Two numbers a tensor are measured: how its weight scales (by projection) and how its gradient scales (by autograd in
both real models). What optimizers, learning rates and moments must be follows; schedules are run by torch's own
classes, configs completed by transformers' own. Reading is common with growth: formats, the families' names and
layouts, the spaces' index maps; nothing of `growth` is imported.
"""

"""Families of architectures as tables of data, and how a checkpoint's tensors are claimed by one."""

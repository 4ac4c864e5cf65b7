"""Families of architectures as tables of data, and what a table may say."""

"""Recipes: the options with which a stage is grown and trained, checked by their types, and as commands."""

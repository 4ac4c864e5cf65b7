"""Recipes: the options with which a model is grown and trained, checked by their types, as files and as commands."""

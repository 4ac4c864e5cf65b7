"""Chooses the recipe of a growth by short trainings of many recipes on one's own checkpoint and data."""

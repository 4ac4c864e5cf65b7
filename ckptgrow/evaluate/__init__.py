"""Scores of checkpoints: through lm-eval, by the staged-training script's own measures, and side by side.

The only part of the package that imports lm_eval.
"""

"""Evaluates checkpoints: through lm-eval, by the measures of the staged-training script, and side by side.

The only part of the package that imports lm_eval.
"""

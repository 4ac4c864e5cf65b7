"""What grows beside the weights: moments, learning rates, schedulers."""

"""A plan of growth meets a checkpoint: width, depth, moments, learning rates, schedule, config."""

"""Growth inside people's own programs: of models, optimizers and schedulers in memory, without a file."""

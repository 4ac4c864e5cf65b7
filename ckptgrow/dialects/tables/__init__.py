"""One table a trainer: its parameters by transformers' names, and its config."""

"""The version of ckptgrow: read here by the package, by checkpoints that it writes, and by its build."""

__version__ = "0.1.0"

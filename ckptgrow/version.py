"""The version of ckptgrow, for the package, for the checkpoints that it writes, and for its build."""

__version__ = "0.1.0"

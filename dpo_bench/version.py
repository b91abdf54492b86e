"""The version of this program, told here and nowhere else."""

__version__ = "0.1.0"

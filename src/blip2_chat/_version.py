"""The version of the package, in the one place that reads nothing else."""

__version__ = "0.2.0.dev0"

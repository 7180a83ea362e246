"""Measurements that `make bench` repeats; none of them is part of the package."""

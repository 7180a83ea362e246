"""Measurements that `make bench` repeats; none of them is part of the package."""

# First, so that ONNX Runtime, which some modules here import by themselves, finds its telemetry switched off.
import blip2_chat  # noqa: F401

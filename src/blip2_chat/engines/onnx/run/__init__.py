"""ONNX Runtime at work: sessions, the KV cache, and graphs that run piece by piece."""

"""Making the ONNX engine's folders from checkpoints, and the cache that keeps them."""

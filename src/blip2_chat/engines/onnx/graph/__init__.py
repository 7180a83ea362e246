"""The ONNX graphs of BLIP-2, layer by layer, and the rewriting and quantising of their weights."""

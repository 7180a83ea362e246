"""The ONNX Runtime engine. `convert` makes a folder from a checkpoint, `load_onnx_engine` loads it.

How to read it: in `graph/`, `vision.py`, `qformer.py`, `opt.py`, `t5.py` and `llama.py` are the model, written with
the few layers of `builder.py`; `quantise.py` makes integers of weights; `convert.py` streams a checkpoint through
them. In `run/`, `session.py` and `language.py` run the result, with the key-value cache in `cache.py`.
"""

from .run.session import OnnxEngine, load_onnx_engine

__all__ = ["OnnxEngine", "load_onnx_engine"]

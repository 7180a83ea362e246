"""The ONNX Runtime engine. `convert` makes a folder from a checkpoint, `load_onnx_engine` loads it.

How to read it: `vision.py`, `qformer.py`, `opt.py` and `t5.py` are the model, written with the few layers of
`builder.py`; `quantise.py` makes integers of weights; `weights.py` and `convert.py` stream a checkpoint through
them; `session.py` and `language.py` run the result, with the cache in `cache.py`.
"""

from .session import OnnxEngine, load_onnx_engine

__all__ = ["OnnxEngine", "load_onnx_engine"]

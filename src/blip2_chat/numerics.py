"""Arithmetic on logits that engines and generation share."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Number = TypeVar("Number", np.float32, np.float64)


def log_softmax(logits: NDArray[Number]) -> NDArray[Number]:
    """Natural-log probabilities along the last axis, in the type of the logits."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    result: NDArray[Number] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result

"""Embeddings of pictures as a column of an Arrow table: a list of vectors of one length per picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..engines.engine import Floats


def column_of(given: Sequence[Floats | None], kind: Any) -> Any:
    """Embeddings [Q, E] of each picture, or None -> a column of the type `kind`."""
    import pyarrow as pa

    size = kind.value_type.list_size
    rows = np.concatenate([np.empty((0, size), np.float16), *(one for one in given if one is not None)])
    ends = np.cumsum([0, *(0 if one is None else len(one) for one in given)], dtype=np.int32)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows.astype(np.float16).reshape(-1)), size)
    missing = pa.array([one is None for one in given], pa.bool_())
    return pa.ListArray.from_arrays(pa.array(ends), vectors, mask=missing).cast(kind)


def vectors_of(column: Any, queries: int, size: int) -> Floats:
    """A column without missing values -> float16 [B, Q, E]. `ValueError` if a picture has another number of them."""
    numbers = column.flatten().flatten().to_numpy(zero_copy_only=False)
    found: Floats = numbers.reshape(len(column), queries, size)
    return found

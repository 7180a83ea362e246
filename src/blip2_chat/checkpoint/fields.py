"""From the keys of a JSON file to the fields of a dataclass, each of the type and within the bounds it must have."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from ..system.small_files import shown


def pick(kind: type[Any], raw: dict[str, Any], **override: Any) -> Any:
    """The dataclass's fields found in `raw`, its defaults for the absent and the null ones."""
    known = {
        field.name: _of_type(field.name, str(field.type), raw[field.name])
        for field in fields(kind)
        if raw.get(field.name) is not None and field.name not in override
    }
    return kind(**{**known, **override})


# Far above any real size.
_LARGEST_SIZE = 1 << 24

# What JSON holds for a field that is annotated so; of others (lists of stop tokens) there is no wrong type here.
_TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "int | None": (int,),
    "float": (int, float),
    "str": (str,),
    "str | None": (str,),
    "bool": (bool,),
    "bool | None": (bool,),
}


def _of_type(name: str, annotation: str, value: Any) -> Any:
    """The value, if this field can have it: a size of 0, for example, would be a division by zero later."""
    types = _TYPES.get(annotation)
    # `tensor_names.py` limits the number of layers.
    least, most = (0, None) if name.endswith("layers") else (1, _LARGEST_SIZE)
    is_size = types == (int,) and not name.endswith("token_id")
    if (types and type(value) not in types) or (is_size and (value < least or (most and value > most))):
        raise ValueError(f"{name} is {shown(value)}")
    return value


def require_whole_heads(part: str, hidden_size: int, heads: int) -> None:
    """`ValueError` where a width cannot be shared out to its attention heads."""
    if hidden_size % heads:
        raise ValueError(f"{part} hidden_size {hidden_size} is not a multiple of its heads")


def end_tokens(value: object, default: int) -> tuple[int, ...]:
    """`eos_token_id`: one token, or several that end an answer."""
    found = value if isinstance(value, list) else [default if value is None else value]
    if not found or not all(type(token) is int for token in found):
        raise ValueError(f"eos_token_id is {shown(value)}")
    return tuple(found)

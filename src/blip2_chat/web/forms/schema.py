"""A JSON schema -> the fields whose values the model chooses.

Nothing is generated in the hope that it will be valid: each field has finitely many values, which the model ranks, or
takes any text, or is a list of the things that a text names. All else is refused.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import ApiError

# Bounds for schemas of strangers. Each value is scored like an answer of its own.
MOST_VALUES = 256
MOST_FIELDS = 32
_LONGEST_VALUE = 200
_DEEPEST = 16
_MOST_NODES = 2000

SUPPORTED = (
    "supported are enum, const, boolean, integers with minimum and maximum, plain strings, lists of plain strings, "
    "anyOf of such choices, and objects of these"
)
# They say nothing about which values are valid.
_ANNOTATIONS = {
    "title", "description", "default", "examples", "example", "deprecated", "readOnly", "writeOnly", "$schema", "$id",
    "$comment", "$defs", "definitions", "propertyOrdering", "strict",
}  # fmt: skip
_OF_OBJECTS = {"type", "properties", "required", "additionalProperties"}
_OF_NUMBERS = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}
_OF_CHOICES = {"type", "enum", "const", *_OF_NUMBERS}
_NUMBERS = (
    *(
        "zero",
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
        "ten",
        "eleven",
        "twelve",
    ),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"),
)
_KINDS: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "boolean": (),
    "integer": (),
    "number": (),
    "null": (type(None),),
}


@dataclass(frozen=True)
class Field:
    """One value of the answer: at `path` in the JSON, and what its schema says of it.

    values: what it may be; None for any text. A single value needs no model. most: for a list of texts, how many it
    may have.
    """

    path: tuple[str, ...]
    values: tuple[Any, ...] | None
    description: str = ""
    most: int | None = None

    @property
    def name(self) -> str:
        """As words: "is_animal" -> "is animal"."""
        return " ".join(self.path[-1].replace("_", " ").split()) if self.path else ""

    @property
    def is_list(self) -> bool:
        return self.most is not None

    @property
    def is_fixed(self) -> bool:
        return self.values is not None and len(self.values) == 1

    @property
    def texts(self) -> list[tuple[str, ...]]:
        """Each value in the ways in which a model would say it, and is ranked by: true is "yes", "dark_blue" is
        "dark blue", 2 is "2" or "two"."""
        return [_said(value) for value in self.values or ()]


@dataclass(frozen=True)
class Form:
    """An answer's objects, by their paths, and its fields, in the schema's order."""

    parts: tuple[tuple[str, ...] | Field, ...]

    @property
    def fields(self) -> list[Field]:
        return [part for part in self.parts if isinstance(part, Field)]

    @property
    def asked(self) -> list[Field]:
        """The fields that need the model."""
        return [one for one in self.fields if not one.is_fixed]

    def question(self, field: Field, question: str) -> str:
        """What is asked for a field, where `question` is the request's; empty: a caption.

        A form with one thing to ask answers the request's question. In others each property is asked for itself: by
        its description, or by the request's question and the property's name.
        """
        named = f"{field.name}?" if field.name else ""
        if len(self.asked) > 1:
            return field.description or f"{question} {named}".strip()
        if question or field.values is None:
            return question or field.description
        return field.description or named

    def fill(self, values: dict[tuple[str, ...], Any]) -> Any:
        """The answer: `values` are those of the asked fields, by their paths."""
        root: dict[str, Any] = {}  # under "" the whole answer
        for part in self.parts:
            if not isinstance(part, Field):
                _put(root, part, {})
            elif part.is_fixed and part.values:
                _put(root, part.path, part.values[0])
            else:
                _put(root, part.path, values[part.path])
        return root[""]


# What a request for JSON without a schema gets where the model only captions.
CAPTION_FORM = Form(((), Field(("description",), None), Field(("tags",), None, most=MOST_VALUES)))


def read_form(schema: Any, param: str) -> Form:
    """A form from a JSON schema in the request's field `param`; 400 where it is not one of choices."""
    reader = _Reader(schema, param)
    form = Form(tuple(reader.parts(schema, ())))
    if len(form.fields) > MOST_FIELDS:
        raise reader.refused(
            f"the schema has {len(form.fields)} properties, and this server allows {MOST_FIELDS}", ()
        )
    return form


class _Reader:
    def __init__(self, root: Any, param: str) -> None:
        self._root = root
        self._param = param
        self._nodes = 0

    def refused(self, why: str, path: Sequence[str]) -> ApiError:
        where = f"{'.'.join(path)[:100]}: " if path else ""
        return ApiError(
            400, f"{where}{why}; {SUPPORTED}", param=self._param, code="unsupported_response_format"
        )

    def parts(self, schema: Any, path: tuple[str, ...]) -> Iterator[tuple[str, ...] | Field]:
        schema = self._resolved(schema, path)
        if "properties" not in schema and schema.get("type") != "object":
            yield self._field(schema, path)
            return
        self._require_known(schema, _OF_OBJECTS, path)
        properties = schema.get("properties", {})
        required = schema.get("required", [])
        if not isinstance(properties, dict) or not isinstance(required, list):
            raise self.refused("properties is not an object, or required is not a list", path)
        missing = [one for one in required if one not in properties]
        if missing:
            raise self.refused(f"{str(missing[0])[:50]!r} is required and not among the properties", path)
        yield path
        for name, inner in properties.items():
            yield from self.parts(inner, (*path, name))

    def _field(self, schema: dict[str, Any], path: tuple[str, ...]) -> Field:
        told = schema.get("description", "")
        description = " ".join(told.split()) if isinstance(told, str) else ""
        if schema.get("type") == "string" and not {*schema} & {"enum", "const", "anyOf", "oneOf"}:
            self._require_known(schema, {"type"}, path)
            return Field(path, None, description)
        if schema.get("type") == "array":
            return Field(path, None, description, self._most_items(schema, path))
        values: list[Any] = []
        for value in self._values(schema, path):
            if not any(_same(value, other) for other in values):
                values.append(value)
            if len(values) > MOST_VALUES:
                raise self.refused(f"more than {MOST_VALUES} values to choose from", path)
        if not values:
            raise self.refused("no value is allowed", path)
        return Field(path, tuple(values), description)

    def _most_items(self, schema: dict[str, Any], path: tuple[str, ...]) -> int:
        """How many items a list may have. It may turn out to have none."""
        self._require_known(schema, {"type", "items", "minItems", "maxItems", "uniqueItems"}, path)
        items = self._resolved(schema.get("items"), path)
        if items.get("type") != "string":
            raise self.refused("the items of a list must be plain strings", path)
        self._require_known(items, {"type"}, path)
        most = schema.get("maxItems", MOST_VALUES)
        if schema.get("minItems", 0) != 0 or not _is_number(most) or most < 0:
            raise self.refused("a list may have no items, so minItems must be 0, and maxItems a number", path)
        return int(most)

    def _values(self, schema: Any, path: tuple[str, ...], depth: int = 0) -> Iterator[Any]:
        """Every value that a schema without properties allows."""
        schema = self._resolved(schema, path)
        for word in ("anyOf", "oneOf"):
            if word not in schema:
                continue
            self._require_known(schema, {word}, path)
            branches = schema[word]
            if not isinstance(branches, list) or depth > _DEEPEST:
                raise self.refused(f"{word} is not a list, or too deep", path)
            for branch in branches:
                yield from self._values(branch, path, depth + 1)
            return
        kinds = schema.get("type", list(_KINDS))
        kinds = [kinds] if isinstance(kinds, str) else kinds
        if not isinstance(kinds, list) or not all(isinstance(one, str) and one in _KINDS for one in kinds):
            raise self.refused(f"the type is {json.dumps(kinds)[:60]}", path)
        self._require_known(schema, _OF_CHOICES, path)
        if "enum" in schema or "const" in schema:
            yield from self._listed(schema, kinds, path)
        elif "type" not in schema:
            raise self.refused("neither enum nor type is given", path)
        else:
            for kind in kinds:
                yield from self._of_kind(kind, schema, path)

    def _listed(self, schema: dict[str, Any], kinds: list[str], path: tuple[str, ...]) -> Iterator[Any]:
        listed = schema.get("enum", [schema.get("const")])
        if not isinstance(listed, list):
            raise self.refused("enum is not a list", path)
        for value in listed:
            if (
                isinstance(value, dict | list)
                or len(value if isinstance(value, str) else "") > _LONGEST_VALUE
            ):
                raise self.refused("a value is an object, a list, or longer than 200 characters", path)
            fits = any(_is_kind(value, kind) for kind in kinds) and self._is_within(value, schema, path)
            if fits and ("const" not in schema or _same(value, schema["const"])):
                yield value

    def _of_kind(self, kind: str, schema: dict[str, Any], path: tuple[str, ...]) -> Iterator[Any]:
        if kind == "null":
            yield None
        elif kind == "boolean":
            yield from (True, False)
        elif kind == "integer":
            least, most = self._bounds(schema, path)
            yield from (n for n in range(least, most + 1) if self._is_within(n, schema, path))
        else:
            raise self.refused(f"a {kind} needs an enum here", path)

    def _bounds(self, schema: dict[str, Any], path: tuple[str, ...]) -> tuple[int, int]:
        least = [schema[word] for word in ("minimum", "exclusiveMinimum") if word in schema]
        most = [schema[word] for word in ("maximum", "exclusiveMaximum") if word in schema]
        numbers = [_is_number(one) for one in (*least, *most)]
        if not least or not most or not all(numbers):
            raise self.refused("an integer needs minimum and maximum", path)
        first, last = math.ceil(max(least)), math.floor(min(most))
        if last - first > 100 * MOST_VALUES:
            raise self.refused(f"more than {MOST_VALUES} values to choose from", path)
        return first, last

    def _is_within(self, value: Any, schema: dict[str, Any], path: tuple[str, ...]) -> bool:
        """Whether a number keeps to the bounds; what is no number does."""
        bounds = {word: schema[word] for word in _OF_NUMBERS if word in schema}
        if not all(map(_is_number, bounds.values())) or bounds.get("multipleOf", 1) <= 0:
            raise self.refused("a bound is not a number", path)
        if not _is_number(value):
            return True
        return (
            value >= bounds.get("minimum", value)
            and value <= bounds.get("maximum", value)
            and ("exclusiveMinimum" not in bounds or value > bounds["exclusiveMinimum"])
            and ("exclusiveMaximum" not in bounds or value < bounds["exclusiveMaximum"])
            and ("multipleOf" not in bounds or value % bounds["multipleOf"] == 0)
        )

    def _resolved(self, schema: Any, path: tuple[str, ...]) -> dict[str, Any]:
        """The schema that references, and `allOf` of one, lead to. Keywords next to a reference count as
        well."""
        for _ in range(_DEEPEST):
            self._nodes += 1
            if self._nodes > _MOST_NODES or len(path) > _DEEPEST:
                raise self.refused("the schema is too large or refers to itself", path)
            if not isinstance(schema, dict):
                raise self.refused("a schema is not an object", path)
            beside = {name: value for name, value in schema.items() if name not in ("$ref", "allOf")}
            if "$ref" in schema:
                inner = self._referred(schema["$ref"], path)
            elif isinstance(schema.get("allOf"), list) and len(schema["allOf"]) == 1:
                inner = schema["allOf"][0]
            else:
                return schema
            if not isinstance(inner, dict):
                raise self.refused("a schema is not an object", path)
            schema = {**inner, **beside}
        raise self.refused("the schema is too large or refers to itself", path)

    def _referred(self, reference: Any, path: tuple[str, ...]) -> Any:
        steps = reference.split("/") if isinstance(reference, str) else []
        found = self._root
        if steps[:1] != ["#"]:
            raise self.refused("a $ref leads out of the schema", path)
        for step in steps[1:]:
            step = step.replace("~1", "/").replace("~0", "~")
            if not isinstance(found, dict) or step not in found:
                raise self.refused(f"$ref {reference[:60]!r} leads nowhere", path)
            found = found[step]
        return found

    def _require_known(self, schema: dict[str, Any], known: set[str], path: tuple[str, ...]) -> None:
        unknown = sorted({*schema} - known - _ANNOTATIONS)
        if unknown:
            raise self.refused(f"{unknown[0][:50]} is not supported in this place", path)


def _put(root: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    place, key = root, ""
    for step in path:
        place, key = place[key], step
    place[key] = value


def _said(value: Any) -> tuple[str, ...]:
    if value is None or value == "":
        return ("none",)
    if isinstance(value, bool):
        return ("yes" if value else "no",)
    if isinstance(value, str):
        return (" ".join(value.replace("_", " ").split()) or value,)
    if value in range(len(_NUMBERS)):
        return str(int(value)), _NUMBERS[int(value)]
    return (f"{value:g}" if isinstance(value, float) else str(value),)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**53


def _is_kind(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    if isinstance(value, int | float):
        return (
            kind in ("integer", "number") and _is_number(value) and (kind == "number" or value == int(value))
        )
    return isinstance(value, _KINDS[kind])


def _same(one: Any, other: Any) -> bool:
    """As JSON has it: true is not 1."""
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)

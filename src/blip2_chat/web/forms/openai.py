"""The form that a request of OpenAI's APIs asks for: as a format of its answer, or as the arguments of a tool."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import ApiError
from .schema import CAPTION_FORM, SUPPORTED, Form, read_form


@dataclass(frozen=True)
class Wanted:
    """A form, and the tool whose arguments it is; without one it is the answer's text."""

    form: Form
    tool: str | None = None


def wanted(
    given: Any, tools: Any, tool_choice: Any, param: str, only_captions: bool = False
) -> Wanted | None:
    """The form of a request; None for plain text, and a 400 where no form can be had.

    `given` is what `param` holds: `response_format` of chat completions, or `text.format` of responses, which has the
    schema one level higher; likewise for tools. `only_captions`: whatever is asked, so that JSON without a schema has
    a known form.
    """
    called = _tool(tools, tool_choice)
    if called is not None:
        return called
    if given is None:
        return None
    if not isinstance(given, dict):
        raise ApiError(400, f"{param}: Input should be an object", param=param)
    kind = given.get("type")
    if kind == "text":
        return None
    if kind == "json_object" and only_captions:
        return Wanted(CAPTION_FORM)
    if kind != "json_schema":
        raise ApiError(
            400,
            f"{param}: the type must be json_schema, because this server ranks given answers; {SUPPORTED}",
            param=param,
            code="unsupported_response_format",
        )
    about = given.get("json_schema", given)
    schema = about.get("schema") if isinstance(about, dict) else None
    return Wanted(read_form(schema, param))


def _tool(tools: Any, choice: Any) -> Wanted | None:
    """The arguments of the tool that must be called; None where none need be."""
    if tools in (None, []):
        return None
    if not isinstance(tools, list) or not all(map(_function, tools)):
        raise ApiError(
            400, "tools must be a list of functions, each with a name and parameters", param="tools"
        )
    functions = {function["name"]: function for function in map(_function, tools) if function}
    if choice == "none":
        return None
    if choice == "required" and len(functions) == 1:
        (name,) = functions
    else:
        function = choice.get("function", choice) if isinstance(choice, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str) or name not in functions:
        raise ApiError(
            400,
            "BLIP-2 cannot decide which tool to call: name one in tool_choice, or give one tool and "
            'tool_choice "required"; "none" answers in text',
            param="tool_choice",
            code="unsupported_tool_choice",
        )
    return Wanted(read_form(functions[name].get("parameters", {"type": "object"}), "tools"), name)


def _function(tool: Any) -> dict[str, Any] | None:
    """A function tool of either API, with its name."""
    if not isinstance(tool, dict) or tool.get("type") != "function":
        return None
    function = tool.get("function", tool)
    is_named = isinstance(function, dict) and isinstance(function.get("name"), str)
    return function if is_named else None

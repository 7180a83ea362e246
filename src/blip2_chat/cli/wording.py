"""The library's parameters by the names that this command line has for them, and its errors in those names."""

from __future__ import annotations

import shlex

from ..errors import Blip2ChatError, Parameter

# Where an option is not called as the parameter is. All others are, with dashes.
OPTION_NAMES = {
    "num_beams": "beams",
    "num_answers": "answers",
    "no_repeat_ngram_size": "no-repeat-ngram",
    "method": "where-method",
}
# `PictureLimits.pixels_option`: in the library the limit counts pixels.
PIXELS_OPTION = "--max-megapixels {megapixels}"


def option(name: str) -> str:
    """The option for a parameter: "num_beams" -> "--beams"."""
    return "--" + OPTION_NAMES.get(name, name).replace("_", "-")


def as_option(parameter: Parameter) -> str:
    """A parameter as it is typed: `precision="int4"` -> "--precision int4", `force=True` -> "--force"."""
    name, value = parameter.name, parameter.value
    if name == "join":  # append or prepend, each an option
        return f"--{value}"
    if value is None or value is True:
        return option(name)
    return f"{option(name)} {shlex.quote(str(value))}"


def worded(error: Blip2ChatError) -> str:
    """The error's message with options in the place of parameters."""
    return error.worded(as_option)

"""`--help` in plain text, with the options of a command in groups."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

_UNGROUPED = "Other options"


class GroupedCommand(TyperCommand):
    """A command whose options stand under the heading that their `rich_help_panel` names, and the others at the end.

    typer prints these groups only in rich's boxes, which need 80 columns and import rich for every `--help`.
    """

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """`[OPTIONS] PICTURE [QUESTION]...`: brackets for what may be left out."""
        arguments = [parameter for parameter in self.params if parameter.param_type_name == "argument"]
        names = [_name(each) if each.required else f"[{_name(each)}]" for each in arguments]
        return ["[OPTIONS]"] + [
            name if each.nargs == 1 else f"{name}..." for name, each in zip(names, arguments, strict=True)
        ]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Arguments, then each group in the order in which the command declares them, then all other options."""
        groups: dict[str, list[tuple[str, str]]] = {"Arguments": []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is None:
                continue
            if parameter.param_type_name == "argument":
                groups["Arguments"].append((_name(parameter), getattr(parameter, "help", None) or ""))
            else:
                heading = getattr(parameter, "rich_help_panel", None) or _UNGROUPED
                groups.setdefault(heading, []).append(record)
        others = groups.pop(_UNGROUPED, [])
        grouped = any(heading != "Arguments" for heading in groups)
        groups[_UNGROUPED if grouped else "Options"] = others
        for heading, records in groups.items():
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)


def _name(argument: Any) -> str:
    return str(argument.metavar or argument.name.upper())

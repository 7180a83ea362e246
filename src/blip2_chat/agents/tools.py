"""The tools: caption, ask and choose, over one model."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ToolAnnotations
from pydantic import BaseModel, Field

from .._version import __version__
from ..errors import Blip2ChatError
from ..images import advise
from ..model import Model
from .loading import Loading, told
from .pictures import Pictures

# Pictures in one call.
_MOST = 64

_INSTRUCTIONS = (
    "BLIP-2 looks at one picture at a time and answers briefly. Ask short, plain questions about what can be seen "
    "(what, where, how many, which colour); it cannot read long texts, reason or follow instructions. For a decision "
    "between known answers use choose, which gives probabilities. {pictures}"
)
READ_ONLY = ToolAnnotations(read_only_hint=True, idempotent_hint=True, open_world_hint=False)

Source = Annotated[str, Field(description="A path below the allowed folders, or a data: URL of a picture.")]


class Described(BaseModel):
    """A picture's caption, or why there is none."""

    picture: str
    caption: str | None = None
    advice: list[str] = Field(
        default_factory=list, description="What about the picture may make answers worse."
    )
    error: str | None = None


class Captions(BaseModel):
    pictures: list[Described]


class Answered(BaseModel):
    answer: str
    advice: list[str] = Field(
        default_factory=list, description="What about the picture may make answers worse."
    )


class Ranked(BaseModel):
    answer: str
    probability: float = Field(description="Among the given choices: they sum to 1.")


class Chosen(BaseModel):
    answer: str = Field(description="The most probable choice.")
    ranked: list[Ranked]


def make_server(loading: Loading[Model], allowed: Pictures) -> MCPServer:
    """An MCP server that is not running yet, with the tools of a chat model."""
    where = " or ".join(map(str, allowed.roots))
    which = f"Pictures are paths below {where}, or data: URLs." if where else "Pictures are data: URLs."
    server = MCPServer(
        "blip2-chat",
        title="Pictures",
        version=__version__,
        instructions=_INSTRUCTIONS.format(pictures=which),
        log_level="WARNING",
    )
    worked = loading.worked

    @server.tool(title="Describe pictures", annotations=READ_ONLY)
    async def caption(
        pictures: Annotated[
            list[Source],
            Field(min_length=1, max_length=_MOST, description="One or more pictures."),
        ],
        context: Context,
        start: Annotated[
            str | None,
            Field(description='First words of the caption, which the model continues, such as "a photo of".'),
        ] = None,
    ) -> Captions:
        """Describes each picture in one sentence. A picture that cannot be read has an error in its place."""

        def describe(source: str, model: Model) -> Described:
            shown = source if len(source) < 300 else f"{source[:40]}..."
            try:
                picture = allowed.open(source)
                text = f"{start or ''} {model.caption(picture, start)}".strip()
            except Blip2ChatError as error:
                return Described(picture=shown, error=str(error))
            return Described(
                picture=shown, caption=text, advice=[one.message for one in advise(picture.image)]
            )

        described: list[Described] = []
        for source in pictures:
            described.append(await told(worked(context, partial(describe, source))))
            await context.report_progress(len(described), len(pictures), "describing")
        if all(one.error for one in described):
            raise ToolError("; ".join(dict.fromkeys(one.error or "" for one in described))[:2000])
        return Captions(pictures=described)

    @server.tool(title="Ask about a picture", annotations=READ_ONLY)
    async def ask(
        picture: Source,
        question: Annotated[str, Field(description="A short, plain question.")],
        context: Context,
    ) -> Answered:
        """Answers a question about a picture in a few words."""

        def answer(model: Model) -> Answered:
            opened = allowed.open(picture)
            return Answered(
                answer=str(model.ask(opened, question)), advice=[one.message for one in advise(opened.image)]
            )

        return await told(worked(context, answer))

    @server.tool(title="Choose between answers", annotations=READ_ONLY)
    async def choose(
        picture: Source,
        question: Annotated[str, Field(description="A short, plain question.")],
        choices: Annotated[
            list[str],
            Field(min_length=2, max_length=256, description="The possible answers, a few words each."),
        ],
        context: Context,
    ) -> Chosen:
        """Which of the given answers to a question about a picture is the most probable, with all probabilities."""

        def choice(model: Model) -> Chosen:
            ranked = model.choose(allowed.open(picture), question, choices)
            return Chosen(
                answer=ranked[0][0],
                ranked=[Ranked(answer=one, probability=round(share, 6)) for one, share in ranked],
            )

        return await told(worked(context, choice))

    return server

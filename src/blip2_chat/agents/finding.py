"""The tools over a retrieval model: match, and over an index, search."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import anyio.from_thread
from mcp.server.mcpserver import Context, MCPServer
from pydantic import BaseModel, Field

from ..errors import GenerationError
from ..retriever import Retriever
from ..search.index import Index
from .loading import Loading, told
from .pictures import Pictures
from .tools import READ_ONLY, Source

# Seconds for reading candidates again together with the text: the rest stays in the order of the embeddings.
_RERANKING = 20.0


class Matched(BaseModel):
    text: str
    probability: float = Field(description="That the text describes the picture; each text for itself.")
    similarity: float = Field(description="Of picture and text, from -1 to 1.")


class Matches(BaseModel):
    ranked: list[Matched] = Field(description="The best first.")


class Found(BaseModel):
    picture: str
    can_be_opened: bool = Field(description="Whether the other tools accept this path.")
    similarity: float
    probability: float | None = Field(
        None, description="That the text describes the picture; only the first candidates have one."
    )


class Results(BaseModel):
    pictures: list[Found] = Field(description="The best first.")
    indexed: int = Field(description="How many pictures were searched.")


def add_match(server: MCPServer, loading: Loading[Retriever] | Loading[Index], allowed: Pictures) -> None:
    """The tool `match`, over a retrieval model or that of an index."""

    @server.tool(title="Match texts with a picture", annotations=READ_ONLY)
    async def match(
        picture: Source,
        texts: Annotated[
            list[str],
            Field(min_length=1, max_length=256, description='Short descriptions, such as "a red car".'),
        ],
        context: Context,
    ) -> Matches:
        """How well each of the given texts describes a picture, the best first. None of them needs to fit."""

        def ranked(model: Retriever | Index) -> Matches:
            retriever = model.retriever if isinstance(model, Index) else model
            return Matches(
                ranked=[
                    Matched(
                        text=one.text,
                        probability=round(one.probability, 6),
                        similarity=round(one.similarity, 6),
                    )
                    for one in retriever.rank(allowed.open(picture), texts)
                ]
            )

        return await told(loading.worked(context, ranked))


def add_search(server: MCPServer, loading: Loading[Index], allowed: Pictures) -> None:
    """The tool `search`, over an index."""

    @server.tool(title="Search the indexed pictures", annotations=READ_ONLY)
    async def search(
        context: Context,
        text: Annotated[
            str | None, Field(description="What the pictures are to show, in plain words.")
        ] = None,
        like: Annotated[
            str | None,
            Field(
                description="In place of a text, a picture (path or data: URL) that the results are to be like."
            ),
        ] = None,
        top: Annotated[int, Field(ge=1, le=100, description="How many pictures.")] = 10,
    ) -> Results:
        """The indexed pictures that fit a text best, or are most like another picture."""

        def found(index: Index) -> Results:
            if (text is None) == (like is None):
                raise GenerationError("give text or like, one of them")

            def progress(done: int, total: int, _: float) -> None:
                anyio.from_thread.run(context.report_progress, done, total, "reading candidates")

            hits = (
                index.search(text, top=top, within=_RERANKING, on_rerank=progress)
                if text is not None
                else index.search(like=allowed.open(like or ""), top=top)
            )
            return Results(
                pictures=[
                    Found(
                        picture=hit.file or hit.path,
                        can_be_opened=hit.file is not None and allowed.allows(Path(hit.file)),
                        similarity=round(hit.similarity, 6),
                        probability=None if hit.probability is None else round(hit.probability, 6),
                    )
                    for hit in hits
                ],
                indexed=len(index),
            )

        return await told(loading.worked(context, found))

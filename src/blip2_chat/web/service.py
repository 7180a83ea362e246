"""The models of a server, and what they share."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TypeVar

from ..checkpoint.embedded import sample_pictures
from ..generation.rows import End
from ..images import PictureLimits
from ..model import Model
from ..search.index import Index
from . import page_files, schemas
from .errors import ApiError
from .finder import Finder
from .middleware.admission import Places
from .model_ids import CAPTION, ids_of
from .model_worker import Served
from .pictures.address_policy import picture_limits
from .pictures.open import Pictures
from .prometheus import Metrics
from .scheduler import Ticket
from .settings import Settings

Result = TypeVar("Result")

log = logging.getLogger(__name__)


class Service:
    """The models of a server and what they share: limits, queue, pictures and metrics. Call `close` at the
    end."""

    def __init__(
        self,
        models: Sequence[Model],
        settings: Settings,
        limits: PictureLimits | None = None,
        index: Index | None = None,
    ) -> None:
        """The first of `models` answers requests that name no model. `index`: the pictures that can be searched."""
        ids = ids_of(models)
        self.settings = settings
        limits = limits or picture_limits(settings)
        self.pictures = Pictures(limits)
        self.finder = None if index is None else Finder(index, limits)
        self.models = [
            Served(model_id, model, settings, self.pictures)
            for model_id, model in zip(ids, models, strict=True)
        ]
        self.places = Places(settings)
        self.metrics = Metrics(
            {served.id: served.scheduler for served in self.models}, lambda: self.places.requests
        )
        self.page = page_files.load(samples=any(served.is_embedded for served in self.models))

    def close(self) -> None:
        """Finishes the running requests of all models."""
        for served in self.models:
            served.scheduler.close()
        if self.finder is not None:
            self.finder.close()
        self.pictures.close()

    @property
    def alive(self) -> bool:
        """Whether every model accepts requests."""
        return all(served.scheduler.alive for served in self.models)

    @property
    def wait(self) -> float:
        """Roughly the seconds until a new request would be processed, for the model with the longest queue."""
        return max(served.scheduler.wait for served in self.models)

    def served(self, model_id: str | None) -> Served:
        """The model that a request names, with or without `CAPTION`, or the first one; a 404 for an unknown
        model."""
        if model_id is None:
            return self.models[0]
        name = model_id.removesuffix(CAPTION) if self.only_captions(model_id) else model_id
        for served in self.models:
            if served.id == name:
                return served
        here = ", ".join(repr(served.id) for served in self.models)
        raise ApiError(
            404,
            f"there is no model {model_id[:100]!r} here; this server has {here}",
            code="model_not_found",
        )

    def only_captions(self, model_id: str | None) -> bool:
        """Whether this name asks for captions, whatever else the request says."""
        is_id = any(served.id == model_id for served in self.models)
        return model_id is not None and model_id.endswith(CAPTION) and not is_id

    def about(self, served: Served) -> schemas.ModelEntry:
        """The entry of a model in `/v1/models`."""
        samples = [
            schemas.Sample(
                path=f"/samples/{one.path.name}", name=one.path.name, questions=list(one.questions)
            )
            for one in (sample_pictures() if served.is_embedded else ())
        ]
        entry = served.entry(samples)
        entry.blip2_chat.indexed_pictures = None if self.finder is None else len(self.finder)
        return entry

    def finish(
        self, served: Served, ticket: Ticket, ends: Sequence[End], prompt: str, copies: int = 1
    ) -> schemas.Usage:
        """Counts a complete answer of any route, and logs it with `--log-text`."""
        usage = served.usage([(ticket, ends)], copies)
        self.metrics.answered(served.id, ticket, usage.prompt_tokens, usage.completion_tokens)
        if self.settings.log_text:
            log.info("%r -> %s", prompt, [end.text for end in ends])
        return usage

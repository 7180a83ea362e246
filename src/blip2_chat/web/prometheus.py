"""Metrics for Prometheus: counts and times, never texts or pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from .scheduler import Scheduler, Ticket

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """The metrics of one server, in a separate registry; those of answers have a label for the model."""

    def __init__(self, schedulers: Mapping[str, Scheduler], current: Callable[[], int]) -> None:
        """`schedulers`: the scheduler of each model, by id. `current`: how many requests there are now."""
        self._registry = CollectorRegistry()
        requests = Gauge("blip2_chat_current_requests", "Requests that are here.", registry=self._registry)
        requests.set_function(current)
        self.requests = Counter(
            "blip2_chat_requests", "Answered requests.", ["route", "status"], registry=self._registry
        )
        self.seconds = Histogram(
            "blip2_chat_request_seconds",
            "From a request's arrival to its last byte.",
            ["route"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._queue_seconds = Histogram(
            "blip2_chat_queue_seconds",
            "Until an answer's picture and prompt were read.",
            ["model"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._tokens = Counter(
            "blip2_chat_tokens",
            "Tokens read, reused and written.",
            ["model", "kind"],
            registry=self._registry,
        )
        values: tuple[tuple[str, str, Callable[[Scheduler], int]], ...] = (
            ("waiting", "Answers waiting for a slot.", lambda scheduler: scheduler.waiting),
            ("rows", "Answers being written.", lambda scheduler: scheduler.busy_rows),
            ("steps", "Steps of the batch since the start.", lambda scheduler: scheduler.steps),
        )
        for name, text, value in values:
            gauge = Gauge(f"blip2_chat_{name}", text, ["model"], registry=self._registry)
            for model, scheduler in schedulers.items():
                gauge.labels(model).set_function(partial(value, scheduler))

    def answered(self, model: str, ticket: Ticket, prompt_tokens: int, completion_tokens: int) -> None:
        """Counts a complete answer."""
        if ticket.started is not None:
            self._queue_seconds.labels(model).observe(ticket.started - ticket.submitted)
        self._tokens.labels(model, "prompt").inc(prompt_tokens)
        self._tokens.labels(model, "cached").inc(ticket.cached_tokens)
        self._tokens.labels(model, "completion").inc(completion_tokens)

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self._registry)

"""What a Prometheus server may ask: counts and times, never what was said or shown."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from .scheduler import Scheduler, Ticket

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """One server's numbers, in a registry of their own."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._registry = CollectorRegistry()
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
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._tokens = Counter(
            "blip2_chat_tokens", "Tokens read, reused and written.", ["kind"], registry=self._registry
        )
        for name, text, value in (
            ("waiting", "Answers waiting for a slot.", lambda: scheduler.waiting),
            ("rows", "Answers being written.", lambda: scheduler.busy_rows),
            ("steps", "Steps of the batch since the start.", lambda: scheduler.steps),
        ):
            Gauge(f"blip2_chat_{name}", text, registry=self._registry).set_function(value)

    def answered(self, ticket: Ticket, prompt_tokens: int, completion_tokens: int) -> None:
        """An answer is complete."""
        if ticket.started is not None:
            self._queue_seconds.observe(ticket.started - ticket.submitted)
        self._tokens.labels("prompt").inc(prompt_tokens)
        self._tokens.labels("cached").inc(ticket.cached_tokens)
        self._tokens.labels("completion").inc(completion_tokens)

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self._registry)

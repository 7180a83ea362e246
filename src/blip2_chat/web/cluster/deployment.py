"""The replicas: starting them on a cluster, asking them, and stopping them."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, replace
from typing import Any

from starlette.types import Scope

from ...system.ray_cluster import ClusterError, connect, imported, loading_of_one, models_that_fit
from ..settings import Settings
from .replica import About, Replica

_WHAT = "serving on a Ray cluster"
_NAME = "blip2-chat"
# Ray's own: it sends requests with the same session to the same replica, and to the next one where that is full.
_ROUTER = "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"
# Seconds for the metrics of all replicas.
_PATIENCE = 3.0


@dataclass(frozen=True)
class ClusterPlan:
    """address: as for `connect`. replicas: how many (None: as many as the cluster holds), with `cpus` and `gpus`
    each. loading: `load`'s arguments. name: of the application, for those who look at the cluster; one of the same
    name is replaced."""

    address: str
    replicas: int | None
    cpus: float
    gpus: float
    loading: dict[str, Any]
    settings: Settings
    name: str = _NAME


class Deployment:
    """Replicas that run. Call `close` at the end."""

    def __init__(self, plan: ClusterPlan) -> None:
        """Returns once all of them have loaded their model. Raises `ClusterError` and `MissingExtraError`."""
        self._ray = imported(_WHAT)
        imported_serve()
        self._plan = plan
        self._is_local = plan.address == "local"
        self._is_ours = not self._ray.is_initialized()
        if self._is_ours:
            connect(self._ray, plan.address)
        try:
            self.replicas = self._count()
            self._handle = self._run()
            self._streams = self._handle.options(method_name="answer", stream=True)
            self.about: About = self._handle.about.remote().result()
        except BaseException:
            self.close()
            raise

    def _count(self) -> int:
        plan = self._plan
        fit = models_that_fit(self._ray, plan.cpus, plan.gpus)
        wanted = plan.replicas or max(1, fit)
        if wanted > fit:
            each = f"{plan.cpus:g} cores" + (f" and {plan.gpus:g} GPUs" if plan.gpus else "")
            raise ClusterError(
                f"{wanted} replica{'s' * (wanted > 1)} with {each} each do not fit: the cluster has room for {fit}"
            )
        return wanted

    def _run(self) -> Any:
        from ray import serve
        from ray.serve.config import ProxyLocation, RequestRouterConfig
        from ray.serve.schema import LoggingConfig

        plan, slots = self._plan, self._plan.settings.slots
        logging.getLogger("ray.serve").setLevel(logging.CRITICAL)
        before = serve.status()
        self._serves_others = bool(before.proxies or set(before.applications) - {plan.name})
        quiet = LoggingConfig(log_level="ERROR", enable_access_log=False)
        # No proxies of Ray's: the front is the one way in.
        serve.start(proxy_location=ProxyLocation.Disabled, logging_config=quiet)
        settings = replace(
            plan.settings, api_key=None if plan.settings.api_key is None else "the front has it"
        )
        deployment = serve.deployment(
            Replica,
            name=Replica.__name__,
            num_replicas=self.replicas,
            # A batch, and as many that wait for their turn: what is more goes to another replica, or waits in
            # front for whichever is free first.
            max_ongoing_requests=2 * slots,
            ray_actor_options={"num_cpus": plan.cpus, "num_gpus": plan.gpus},
            request_router_config=RequestRouterConfig(
                request_router_class=_ROUTER,
                request_router_kwargs={"num_fallback_replicas": self.replicas - 1},
            ),
            max_constructor_retry_count=1,
            health_check_period_s=2,
            graceful_shutdown_timeout_s=plan.settings.time_limit,
            logging_config=quiet,
        )
        loading = loading_of_one(plan.loading, plan.cpus)
        try:
            return serve.run(deployment.bind(loading, settings), name=plan.name, route_prefix=None)
        except RuntimeError as error:
            raise ClusterError(self._why() or str(error)) from None

    def _why(self) -> str:
        """What kept the replicas from starting: the last line of the traceback that Ray keeps."""
        from ray import serve

        overview = serve.status().applications.get(self._plan.name)
        for one in overview.deployments.values() if overview else ():
            lines = one.message.strip().splitlines()
            if lines:
                return re.sub(r"^[\w.]*\.(\w*Error): ", "", lines[-1])
        return ""

    def ask(self, key: str, scope: Scope, body: bytes) -> Any:
        """`Replica.answer` of one replica, of the same one for the same key as long as it is there."""
        return self._streams.options(session_id=key).remote(scope, body)

    async def metrics(self) -> list[tuple[str, bytes]]:
        """`Replica.metrics` of each; nothing where one of them does not answer."""
        asked = self._handle.broadcast("metrics")
        try:
            told = await asked.results_async(timeout_s=_PATIENCE, return_exceptions=True)
        except TimeoutError:
            return []
        return [one for one in told if not isinstance(one, BaseException)]

    def running(self) -> int:
        """How many replicas run now. Asks the cluster."""
        from ray import serve

        overview = serve.status().applications.get(self._plan.name)
        if overview is None:
            return 0
        return sum(one.replica_states.get("RUNNING", 0) for one in overview.deployments.values())

    def close(self) -> None:
        """Ends the replicas, and Ray where it was started for them."""
        from ray import serve

        if not self._is_local and hasattr(self, "_serves_others"):
            serve.delete(self._plan.name)
            if not self._serves_others and not serve.status().applications:
                serve.shutdown()
        if self._is_ours:
            self._ray.shutdown()


def imported_serve() -> None:
    """Raises `MissingExtraError` where Ray is there without Serve."""
    from ...errors import MissingExtraError

    try:
        import ray.serve  # noqa: F401
        from ray.serve.experimental import consistent_hash_router  # noqa: F401
    except ImportError:
        raise MissingExtraError(_WHAT, "ray") from None

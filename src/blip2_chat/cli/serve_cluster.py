"""`blip2-chat serve --ray`: replicas on a Ray cluster, and this process in front of them."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from .display.terminal import waiting
from .options import ModelOptions
from .started import Started

if TYPE_CHECKING:
    from ..web.settings import Settings


@dataclass(frozen=True)
class ClusterOptions:
    """Many machines."""

    heading: ClassVar[str] = "Ray clusters"

    ray: Annotated[
        bool, typer.Option("--ray", help="Answer with several copies of the model, as replicas of Ray Serve.")
    ] = False
    ray_address: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Ray cluster of the replicas: local (this machine), auto, HOST:PORT or ray://HOST:PORT "
            "(default: local); includes --ray.",
        ),
    ] = None
    replicas: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Number of replicas (default: as many as the cluster can hold)."
        ),
    ] = None
    cpus: Annotated[float, typer.Option(metavar="N", min=0, help="CPU cores per replica.")] = 1
    gpus: Annotated[float, typer.Option(metavar="N", min=0, help="GPUs per replica.")] = 0

    @property
    def is_wanted(self) -> bool:
        return self.ray or self.ray_address is not None


def on_cluster(cluster: ClusterOptions, model: ModelOptions, settings: Settings, port: int) -> Started:
    """Replicas, each with its model loaded. `port`: of this server, by which its replicas are told from those of
    others on the same cluster."""
    from ..checkpoint.config import ModelConfig
    from ..checkpoint.inspect import find
    from ..system.ray_cluster import imported

    imported("serving on a Ray cluster")
    # Ray takes a while to start: a model that is not there is told before.
    ModelConfig.from_folder(find(model.model, revision=model.revision, weights=False))
    from ..web.cluster.deployment import ClusterPlan, Deployment
    from ..web.cluster.front import make_front

    plan = ClusterPlan(
        cluster.ray_address or "local",
        cluster.replicas,
        cluster.cpus,
        cluster.gpus,
        model.loading(),
        settings,
        name=f"blip2-chat-{socket.gethostname()}-{port}",
    )
    with waiting(f"starting replicas of {model.model}"):
        deployment = Deployment(plan)
    about, count = deployment.about, deployment.replicas
    each = f"--cpus {cluster.cpus:g}" + (f" and --gpus {cluster.gpus:g}" if cluster.gpus else "")
    return Started(
        make_front(deployment, settings),
        (f"{about.name} ({about.engine}, {about.precision})",),
        about.ids,
        about.is_embedded,
        (f"{count} replica{'s' * (count > 1)} on Ray ({plan.address}), with {each} each",),
        deployment.close,
    )

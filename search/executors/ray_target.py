"""Runs a function on a target: a node of the cluster that offers a custom resource."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError, RayTaskError

from configs.errors import TooNoisy, UserError

T = TypeVar("T")

LOOK_S = 30.0  # how often it is looked whether there still is a node
LIMIT_S = 300.0  # after which a target that has left is not waited for any more


def check_offered(resources: Iterable[str]) -> None:
    """Refuse what Ray would wait for: a resource that no node of the cluster offers.

    Raises:
        UserError: Names the resource, and those that there are.
    """
    offered = _offered()
    for resource in resources:
        if resource not in offered:
            known = f"these are offered: {', '.join(sorted(offered))}" if offered else "none is"
            raise UserError(
                f"latency.resource: no machine of the cluster offers {resource!r}; {known}. Start "
                f"Ray on the target with --resources '{{\"{resource}\": 1}}'"
            )


def run_on(resource: str, function: Callable[..., T], *arguments: Any) -> T:
    """Call a function on a node that offers one unit of a resource, which is its own meanwhile.

    It reserves no CPU core: a worker of the search on that node, which waits for it, has them.

    Raises:
        TooNoisy: The target has left the cluster, and is not back after `LIMIT_S`.
        Exception: What the function raises.
    """
    task = ray.remote(function).options(
        num_cpus=0,
        resources={resource: 1},
        scheduling_strategy="DEFAULT",  # or it would have to be where the trial is
    )
    called, gone_s = task.remote(*arguments), 0.0
    try:
        while not ray.wait([called], timeout=LOOK_S)[0]:
            gone_s = 0.0 if resource in _offered() else gone_s + LOOK_S
            if gone_s > LIMIT_S:
                raise TooNoisy(
                    f"no machine of the cluster has offered {resource!r} for {gone_s:.0f} s"
                )
        return ray.get(called)
    except RayTaskError as error:
        raise error.cause from None
    except RayError as error:
        raise TooNoisy(f"the target {resource!r} was lost: {type(error).__name__}") from error
    except BaseException:
        ray.cancel(called)
        raise


def _offered() -> set[str]:
    """Names of the custom resources of all nodes that are there."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    names = {name for node in nodes for name, amount in node.items() if amount >= 1}
    return {
        name
        for name in names - {"CPU", "GPU", "memory", "object_store_memory"}
        if ":" not in name and "_group_" not in name  # Ray's own, such as node:10.0.0.1
    }

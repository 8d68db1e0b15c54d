"""Where latencies are measured: on the device of the search, on another one of this machine, or on
a target node of a Ray cluster; "" is what `latency` says, NAME what `targets.NAME` says."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch

from configs import Config, UserError
from configs.differences import first_difference
from configs.latency import LatencySettings
from configs.registry import load_plugins
from evaluators import fingerprint, measure_latency, measure_reference, shared_device
from evaluators.fingerprint import Fingerprint
from evaluators.latency import Latency
from evaluators.metric import AT, METRICS
from evaluators.subject import Subject
from experiments.devices import gpus_per_worker, latency_device
from experiments.settings import goal_of
from experiments.workspace import with_absolute_paths
from search_space import Architecture, SearchSpace, build_network


def used_targets(config: Config) -> list[str]:
    """Return the names of the targets on which metrics of the goal are measured."""
    parts = (name.partition(AT) for name in goal_of(config).metrics if name in METRICS)
    return list(dict.fromkeys(target for _, _, target in parts if target))


def settings_on(config: Config, target: str) -> LatencySettings:
    """Return how latency is measured on a target."""
    return config.targets[target] if target else config.latency


def on_this_host(config: Config) -> Config:
    """Return a configuration that measures every latency on this machine, without a cluster."""
    here = {name: dataclasses.replace(each, resource="") for name, each in config.targets.items()}
    latency = dataclasses.replace(config.latency, resource="")
    return dataclasses.replace(config, latency=latency, targets=here)


def timed_devices(config: Config) -> tuple[torch.device, ...]:
    """Return the devices of this machine on which latencies are timed."""
    settings = [settings_on(config, target) for target in ("", *used_targets(config))]
    return tuple(latency_device(config, each) for each in settings if not each.resource)


@contextlib.contextmanager
def targets_reachable(config: Config) -> Iterator[None]:
    """Be in the cluster for the time of the block, where a target of the search is a node of one.

    Raises:
        UserError: There is no cluster, or none of its nodes is such a target.
    """
    settings = (settings_on(config, target) for target in ("", *used_targets(config)))
    resources = {each.resource for each in settings} - {""}
    if not resources:
        yield
        return
    from search.executors.ray_session import ray_session
    from search.executors.ray_target import check_offered

    search, gpus = config.search, gpus_per_worker(config)
    with ray_session(search.address or None, search.workers, search.cpus_per_worker, gpus):
        check_offered(sorted(resources))
        yield


def fingerprint_on(config: Config, target: str) -> Fingerprint:
    """Return what latencies on a target are marked with."""
    return _there(config, target, _fingerprint)


def unit_on(config: Config, target: str) -> float:
    """Return the milliseconds of the reference network on a target: the unit of its latencies.

    Raises:
        TooNoisy: The target was too busy.
    """
    return _there(config, target, _unit)


def time_on(
    config: Config,
    architecture: Architecture,
    unit: float | None,
    expected: Fingerprint | None,
    subject: Subject,
) -> Latency:
    """Measure the latency of an architecture on the target of a subject.

    A network on this machine is that of the subject. On a node it is built anew, with random
    weights, on which its latency does not depend.

    Args:
        unit: See `measure_latency`; None for that of the process that measures.
        expected: Another device is refused.

    Raises:
        TooNoisy: The target was too busy.
        UserError: It is not the device that is searched for.
    """
    settings = settings_on(config, subject.target)
    if settings.resource:
        latency = _there(config, subject.target, _latency, architecture, unit)
    else:
        device = latency_device(config, settings)
        network = subject.network
        if device != subject.device:
            with shared_device(subject.device), shared_device(device):
                network = copy.deepcopy(network).to(device)
        latency = measure_latency(
            network, subject.image_shape, settings, device=device, reference_ms=unit
        )
    if expected is not None and (difference := first_difference(expected, latency.fingerprint)):
        where = f"the target {subject.target!r}" if subject.target else "this device"
        raise UserError(f"{where} is not the one that is searched for: {difference}")
    return latency


def image_shape(config: Config) -> tuple[int, int, int]:
    """Return (C, H, W) of the images of a configuration."""
    return config.space.in_channels, config.space.input_size, config.space.input_size


def _there(config: Config, target: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function of configuration, settings and further arguments, where a target is."""
    settings = settings_on(config, target)
    if not settings.resource:
        return function(config, settings, *arguments)
    from search.executors.ray_target import run_on

    sent = with_absolute_paths(config)
    return run_on(settings.resource, _with_plugins, function, sent, settings, *arguments)


def _with_plugins(function: Callable[..., Any], config: Config, *arguments: Any) -> Any:
    load_plugins(config.plugins)
    return function(config, *arguments)


def _fingerprint(config: Config, settings: LatencySettings) -> Fingerprint:
    return fingerprint(image_shape(config), settings, latency_device(config, settings))


def _unit(config: Config, settings: LatencySettings) -> float:
    return measure_reference(settings, device=latency_device(config, settings))


def _latency(
    config: Config, settings: LatencySettings, architecture: Architecture, unit: float | None
) -> Latency:
    device = latency_device(config, settings)
    with shared_device("cpu"):
        network = build_network(SearchSpace(config.space, config.plugins), architecture)
    return measure_latency(
        network.to(device), image_shape(config), settings, device=device, reference_ms=unit
    )

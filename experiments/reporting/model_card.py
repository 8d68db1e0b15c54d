"""The model card in a retrained network's folder: what it is, how good, how fast, how to use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from configs import Config
from evaluators.metric import describe_metric
from experiments.reporting.how_to_load import how_to_load, with_section
from experiments.reporting.markdown import markdown_table


class Shipped(Protocol):
    """What the card says of a network."""

    @property
    def name(self) -> str: ...
    @property
    def folder(self) -> Path: ...
    @property
    def architecture(self) -> tuple[str, ...]: ...
    @property
    def metrics(self) -> Mapping[str, float]: ...
    @property
    def seeds(self) -> Sequence[int]: ...
    @property
    def accuracy_text(self) -> str: ...
    @property
    def latencies(self) -> Mapping[str, float]: ...
    @property
    def class_names(self) -> Sequence[str]: ...


def model_card(
    network: Shipped,
    config: Config,
    fingerprints: Mapping[str, Mapping[str, Any]],
    exports: Mapping[str, Mapping[str, Any]],
) -> str:
    """Return the card in Markdown.

    Args:
        config: With which it was trained.
        fingerprints: Form -> device, runtime and settings of its latency.
        exports: What the exported files in its folder are; see `how_to_load`.
    """
    sections = {
        "Use": _use(network),
        "Accuracy": _accuracy(network),
        "Cost": _cost(network, fingerprints),
        "Architecture": "![architecture](architecture.png)\n\n" + " ".join(network.architecture),
        "Data": _data(network, config),
        "Recipe": _recipe(config),
    }
    head = f"# {config.name}: {network.name}\n\nAn image classifier, found and trained by Evolute."
    card = "\n\n".join([head, *(f"## {k}\n\n{text}" for k, text in sections.items())])
    return with_section(card, how_to_load(network.folder, exports))


def _use(network: Shipped) -> str:
    text = f"```\nevolute predict {network.folder.name} photo.jpg\n```\n\n"
    text += "`MLmodel` is what `mlflow models serve` serves."
    if any(form.endswith(".onnx") for form in network.latencies):
        text += " What an image must be like is in the metadata of the programs too."
    return text


def _accuracy(network: Shipped) -> str:
    count = len(network.seeds)
    seeds = f"mean and deviation of {count} seeds" if count > 1 else "one seed"
    shipped = describe_metric("accuracy").text(network.metrics["accuracy"])
    validated = describe_metric("accuracy").text(network.metrics["validation_accuracy"])
    return (
        f"{network.accuracy_text} % of the test images ({seeds}). The weights are those of the "
        f"seed that is best on validation images ({validated}): {shipped} of the test images."
    )


def _cost(network: Shipped, fingerprints: Mapping[str, Mapping[str, Any]]) -> str:
    counted = [
        f"{describe_metric(name).label}: {describe_metric(name).text(network.metrics[name])}"
        for name in ("params", "macs")
    ]
    rows = []
    latency = describe_metric("latency_ms")
    for form, milliseconds in network.latencies.items():
        known = fingerprints.get(form, {})
        where = (known.get(key, "") for key in ("device", "runtime", "batch", "threads", "dtype"))
        rows.append([form, latency.write(milliseconds), *map(str, where)])
    heads = ("form", "latency (ms)", "device", "runtime", "batch", "threads", "type")
    table = markdown_table(heads, rows) if rows else "No latency was measured."
    return f"{'; '.join(counted)}.\n\n{table}"


def _data(network: Shipped, config: Config) -> str:
    names = network.class_names
    shown = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
    return f"`{config.data.name}`, {len(names)} classes: {shown}."


def _recipe(config: Config) -> str:
    recipe = config.retrain
    text = (
        f"{recipe.epochs} epochs, batch {recipe.batch_size}, learning rate {recipe.learning_rate:g}"
        f", weight decay {recipe.weight_decay:g}, label smoothing {recipe.label_smoothing:g}"
    )
    how = "fine-tuned from the supernet's weights" if recipe.inherit else "trained from scratch"
    return f"{how.capitalize()}: {text}. All keys are in `config.yaml`."

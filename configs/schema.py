"""The schema of a configuration file: one dataclass a section, a docstring under each field.

The dataclasses need the standard library alone; `configs.loading` checks files against them with
pydantic, so that an unknown key, a wrong type or an impossible value never reaches a run.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from configs.errors import UserError
from configs.latency import LatencySettings
from configs.space import STRICT, Space, require, require_between


@dataclass(frozen=True, kw_only=True)
class Data:
    """Which images, and how they are split."""

    __pydantic_config__ = STRICT

    name: str = "digits"
    """`digits` (embedded, 8x8), `images` (files under `root`), a registered source, or a data set
    that timm knows, such as `torch/cifar10` or `hfds/...`."""
    root: str = ""
    """For `images`: a folder or tar of class folders, or a folder that holds `train` and `test`
    (or `val`), each a folder or a tar. For timm's data sets: where they are stored. The side of a
    split on which a file of `images` is depends on its path below the root: see docs/images.md."""
    split_seed: int = 0
    """Seed of the splits and of `limit`; `seed` plays no part, so that all runs share one test
    and one validation split."""
    validation_fraction: float = 0.2
    """Share of the training images held out for the search: of every class alike or, of files,
    each with this probability, and at least one of every class."""
    test_fraction: float = 0.2
    """Share held out as test split where the data has no test split of its own."""
    limit: int = 0
    """The largest number of training images (stratified); 0 means all. Of files, one more takes the
    place of at most one of each class."""
    crop_padding: int = 0
    """Random crops after padding by this number of pixels."""
    crop_scale: float = 1.0
    """Random-resized crops of at least this share of an image's area, cut from the file at full
    resolution; 0.08 is usual for ImageNet, 1 turns them off."""
    flip: bool = False
    """Random horizontal flips. Wrong for digits and text."""
    auto_augment: str = ""
    """timm's policy string, such as `rand-m9-mstd0.5`."""
    loading_workers: int = 2
    """Processes that read and augment images one by one."""
    memory_limit_mb: int = 2048
    """Images are decoded once and kept in memory, on the device where possible, when training
    and validation images need no more than this. It changes the time and nothing else."""

    def __post_init__(self) -> None:
        for key in ("validation_fraction", "test_fraction"):
            require(self, key, 0 < getattr(self, key) < 1, "a share between 0 and 1 is needed")
        for key in ("limit", "crop_padding", "loading_workers", "memory_limit_mb", "split_seed"):
            require(self, key, getattr(self, key) >= 0, "0 or a positive number is needed")
        require(self, "crop_scale", 0 < self.crop_scale <= 1, "a share above 0, or 1, is needed")
        cropped_twice = self.crop_padding > 0 and self.crop_scale < 1
        require(self, "crop_padding", not cropped_twice, "`crop_scale` crops already")
        require(self, "root", self.name != "images" or bool(self.root), "`images` needs a folder")
        require(self, "root", self.name != "digits" or not self.root, "`digits` is embedded")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is trained. Optimizer and schedule are timm's."""

    __pydantic_config__ = STRICT

    epochs: int = 10
    """Passes over the training split."""
    batch_size: int = 128
    """Images per optimizer step (per process)."""
    optimizer: str = "sgd"
    """Any name that `timm.optim.list_optimizers()` shows; `sgd` is with Nesterov momentum."""
    learning_rate: float = 0.1
    """Peak learning rate; not rescaled with the batch size."""
    momentum: float = 0.9
    """Momentum of the optimizers that have one."""
    weight_decay: float = 1e-4
    """Not applied to biases and batch norms."""
    warmup_epochs: float = 1.0
    """Linear warm-up, in epochs, of half the training at most; then a cosine to zero."""
    label_smoothing: float = 0.0
    """Share of the target spread over all classes."""
    clip_grad: float = 5.0
    """Largest gradient norm; 0 turns clipping off."""
    random_erasing: float = 0.0
    """Probability that a rectangle of an image is erased."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Autocast type of forward and backward; weights stay float32."""
    channels_last: bool = True
    """Memory format of images and weights."""

    def __post_init__(self) -> None:
        for key in ("epochs", "batch_size", "learning_rate"):
            require(self, key, getattr(self, key) > 0, "a positive number is needed")
        for key in ("weight_decay", "warmup_epochs", "clip_grad"):
            require(self, key, getattr(self, key) >= 0, "0 or a positive number is needed")
        for key in ("label_smoothing", "random_erasing", "momentum"):
            require(self, key, 0 <= getattr(self, key) < 1, "a share in [0, 1) is needed")


@dataclass(frozen=True, kw_only=True)
class Train(Recipe):
    """How the supernet is trained."""

    sampling: Literal["fair", "uniform", "sandwich"] = "fair"
    """`fair`: as many paths a step as the longest candidate list, every operator of a layer learns
    exactly once (FairNAS); `uniform`: one path a step (SPOS); `sandwich`: four paths a step, that
    of the most MACs, two random ones, and that of the fewest (BigNAS)."""
    distill: bool = False
    """In a sandwich, the other paths learn what the largest one answers, instead of the labels."""
    ema_decay: float = 0.0
    """Decay of the averaged weights that the search reads; 0 reads the last iterate."""
    path_gradients: Literal["mean", "sum"] = "sum"
    """How the gradients of a step's m paths are combined. `sum` (as FairNAS): a candidate, which
    learns on one of them, takes its whole step, with whole weight decay; the gradients of what is
    shared are m times as large. `mean`: what all paths share takes a step as on one path, a
    candidate an m-th of it, and of weight decay; in a short training candidates then learn next to
    nothing (docs/ranking.md). To optimizers that rescale gradients, such as AdamW, only the weight
    decay differs."""

    def __post_init__(self) -> None:
        super().__post_init__()
        taught = self.sampling == "sandwich" or not self.distill
        require(self, "distill", taught, "`sandwich` sampling has a largest path to learn from")
        require(self, "ema_decay", 0 <= self.ema_decay < 1, "a share in [0, 1) is needed")


@dataclass(frozen=True, kw_only=True)
class Retrain(Recipe):
    """How a chosen architecture is trained from scratch."""

    mixup: float = 0.0
    """Alpha of mixup; 0 turns it off."""
    cutmix: float = 0.0
    """Alpha of CutMix; 0 turns it off."""
    ema_decay: float = 0.0
    """Decay of the averaged weights that are shipped; 0 ships the last iterate."""
    seeds: int = 1
    """How many networks are trained, each from its own seed."""
    inherit: bool = False
    """Start from the supernet's weights instead of from scratch."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("mixup", "cutmix"):
            require(self, key, getattr(self, key) >= 0, "0 or a positive number is needed")
        require(self, "ema_decay", 0 <= self.ema_decay < 1, "a share in [0, 1) is needed")
        require(self, "seeds", self.seeds >= 1, "at least one network is trained")


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """How an architecture's accuracy is read off the supernet."""

    __pydantic_config__ = STRICT

    calibration_images: int = 1024
    """Training images from which the batch norms are recalibrated."""
    batch_size: int = 256
    """Images per forward pass, at most: a search reads its validation images in five or more."""
    cache_mb: int = 1024
    """Memory of each worker for activations of architectures that begin alike; 0 keeps none. It
    changes the time and nothing else."""

    def __post_init__(self) -> None:
        for key in ("calibration_images", "batch_size"):
            require_between(self, key, 1, 2**24)
        require_between(self, "cache_mb", 0, 2**24)


@dataclass(frozen=True, kw_only=True)
class Search:
    """What is searched for, how long, and by how many workers."""

    __pydantic_config__ = STRICT

    trials: int = 100
    """Different architectures to evaluate; answers from the memo are free."""
    sampler: str = "surrogate"
    """Which architecture to try next: `surrogate`, `evolution` (the choice for more than 2,000
    trials), `nsga2`, `tpe`, `random`, or a registered one."""
    objectives: dict[str, Literal["maximize", "minimize"]] = field(
        default_factory=lambda: {"cross_entropy": "minimize", "latency_ms": "minimize"}
    )
    """Metric -> direction: `cross_entropy` (orders inherited weights better than `accuracy`),
    `accuracy`, `latency_ms`, `latency_ms@TARGET` (see `targets`), `params`, `macs`, `memory_mb`, or
    a registered one."""
    constraints: dict[str, float] = field(default_factory=dict)
    """Metric -> upper bound (latency in ms, MACs per image). To change objectives, constraints or
    the sampler of a study that has begun, begin another one: `evolute search --study NAME`."""
    features: tuple[str, ...] = ()
    """Scores of untrained networks, such as `naswot`, from which the sampler `surrogate` learns
    while trials are few. Each is computed for 40 architectures before the search, which takes
    seconds, and predicted for the others."""
    start: tuple[str, ...] = ()
    """Evaluated first: hand-made networks such as `evolute_rednet50`, or architecture files.
    Then follow those with one candidate throughout, for a quarter of the trials at most."""
    racing: bool = True
    """Stop reading an architecture's accuracy as soon as it cannot reach the front any more, with
    an error of one in a hundred. What is evaluated first (`start`) is read in full."""
    verify: bool = True
    """Train the most promising architectures and the plain networks alone after the trials, see
    `verify`: the front that is reported is then that of their accuracies. Without it, it is that of
    accuracies with inherited weights, which order architectures only roughly."""
    workers: int | Literal["auto"] = 1
    """Evaluations at a time; each worker owns its share of the machine. 0 evaluates in the
    process of the search, without Ray; `auto` takes all that Ray has room for, also of machines
    that join a cluster during the search."""
    cpus_per_worker: float = 1
    """CPU cores that a worker reserves."""
    gpus_per_worker: float = 0
    """GPUs that a worker reserves; whole ones, or timings disturb each other."""
    timeout_s: float = 3600
    """Seconds after which an evaluation that is not done counts as failed, and its process is
    ended; 0 waits for ever."""
    address: str = ""
    """An existing Ray cluster, such as `auto` or `ray://host:10001`; empty starts one here."""
    storage: str = ""
    """Optuna storage URL; empty is an SQLite file in the work directory. A password is never kept,
    see docs/secrets.md. Its studies are called as
    the configuration, and NAME/STUDY those of `--study`."""
    profile_samples: int = 8
    """Architectures measured before the search, to refuse an impossible constraint."""

    def __post_init__(self) -> None:
        for key in ("trials", "profile_samples"):
            require(self, key, getattr(self, key) > 0, "a positive number is needed")
        for key in ("cpus_per_worker", "gpus_per_worker", "timeout_s"):
            require(self, key, getattr(self, key) >= 0, "0 or a positive number is needed")
        known = self.workers == "auto" or self.workers >= 0
        require(self, "workers", known, "0, a positive number or `auto` is needed")
        require(self, "objectives", len(self.objectives) > 0, "at least one objective is needed")


@dataclass(frozen=True, kw_only=True)
class Verify:
    """How architectures are trained alone before any is reported as best (`search.verify`)."""

    __pydantic_config__ = STRICT

    budget: float = 1.0
    """What all these trainings may cost, as a share of the supernet's; counted in images times
    multiply-accumulates, so that a plan does not depend on the clock."""
    start: Literal["inherited", "fresh"] = "inherited"
    """The weights that the first training of an architecture begins with: the supernet's, or random
    ones. The recipe is `retrain` with fewer epochs."""
    learning_rate: float = 0.2
    """The learning rate of a training that begins with trained weights, as a share of
    `retrain.learning_rate`: the whole of it would shake what these know (docs/ranking.md)."""

    def __post_init__(self) -> None:
        require(self, "budget", 0 < self.budget <= 1000, "a number from above 0 to 1000 is needed")
        require(self, "learning_rate", 0 < self.learning_rate <= 1, "a share in (0, 1] is needed")


@dataclass(frozen=True, kw_only=True)
class Tracking:
    """Where MLflow keeps what happened."""

    __pydantic_config__ = STRICT

    uri: str = ""
    """Tracking URI; empty is an SQLite file and a folder in `runs`, for all work directories
    there, or in a work directory that is elsewhere. Passwords and tokens are never kept: give them
    in the environment (docs/secrets.md)."""
    experiment: str = "evolute"
    """MLflow experiment, one per project."""
    model_name: str = ""
    """Registered model's name; empty is `evolute-NAME`."""

    def __post_init__(self) -> None:
        for key in ("uri", "experiment", "model_name"):
            require(self, key, getattr(self, key).isprintable(), "printable characters are needed")
        named = self.experiment == self.experiment.strip() != ""
        require(self, "experiment", named, "a name is needed, without spaces around it")
        valid = re.fullmatch(r"[\w.\- ]*", self.model_name) is not None
        right = "letters, digits, `_`, `-`, `.` and spaces are needed, in MLflow's registry"
        require(self, "model_name", valid, right)


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole configuration file."""

    __pydantic_config__ = STRICT

    name: str
    """Names the work directory `runs/NAME`, the study and the MLflow run."""
    space: Space
    """The search space."""
    seed: int = 0
    """Seed of everything random but the splits: initial weights, paths, batches, samplers."""
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:1`, or `auto`: a GPU where there is one."""
    plugins: tuple[str, ...] = ()
    """Python files that register operators, metrics and the like, relative to the configuration."""
    data: Data = field(default_factory=Data)
    """Images and splits."""
    train: Train = field(default_factory=Train)
    """Supernet training."""
    evaluate: Evaluate = field(default_factory=Evaluate)
    """Accuracy with inherited weights."""
    latency: LatencySettings = field(default_factory=LatencySettings)
    """What is timed."""
    targets: dict[str, LatencySettings] = field(default_factory=dict)
    """Further devices that matter, NAME -> keys as those of `latency`, each with its own defaults.
    The metric `latency_ms@NAME` is the latency there: an objective or a bound like any other."""
    search: Search = field(default_factory=Search)
    """The search."""
    verify: Verify = field(default_factory=Verify)
    """Training alone what the search holds most promising."""
    retrain: Retrain = field(default_factory=Retrain)
    """Training from scratch."""
    tracking: Tracking = field(default_factory=Tracking)
    """MLflow."""

    def __post_init__(self) -> None:
        valid = re.fullmatch(r"[^\W_][\w.-]{0,99}", self.name) is not None
        right = "use letters, digits, `.`, `_` and `-`, a letter or a digit first, 100 at most"
        require(self, "name", valid, right)
        valid = 0 <= self.seed < 2**32
        require(self, "seed", valid, "a number from 0 to 4294967295 (2**32 - 1) is needed")
        if self.data.crop_padding > self.space.input_size // 2:
            raise UserError(
                f"data.crop_padding: {self.data.crop_padding} is not possible; choose at most "
                f"{self.space.input_size // 2}, half of space.input_size"
            )
        for name in self.targets:
            valid = re.fullmatch(r"[A-Za-z0-9_-]{1,50}", name) is not None
            require(self, "targets", valid, "a name is letters, digits, `_` and `-`")
        timed = {"latency": self.latency, **{f"targets.{n}": t for n, t in self.targets.items()}}
        for key, settings in timed.items():
            if settings.resource and self.search.workers == 0:
                raise UserError(
                    f"{key}.resource: {settings.resource!r} is a resource of a Ray cluster; "
                    "search.workers 0 searches without Ray. Choose 1 or more, or `auto`"
                )
        valid = re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,2})?", self.device) is not None
        require(self, "device", valid, "choose auto, cpu, cuda or cuda:N")
        valid = all(plugin and plugin.isprintable() for plugin in self.plugins)
        require(self, "plugins", valid, "names of files are needed")

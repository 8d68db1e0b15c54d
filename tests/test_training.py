"""Paths, steps, checkpoints: what learns, and that an interruption changes nothing."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from spaces import changed, random_images, random_labels, small_space, state_of
from torch import Tensor, nn
from torch.nn import functional as F

from configs import UserError
from configs.schema import Retrain, Train
from search_space import ChoiceSpace, SearchSpace, build_network
from supernet import Supernet, Trainer, fair_paths, fit, uniform_paths
from supernet.checkpoint import load_checkpoint, save_checkpoint
from supernet.training import seed_everything

PLAIN: dict[str, Any] = {"optimizer": "momentum", "momentum": 0.0, "weight_decay": 0.0,
                         "clip_grad": 0.0, "warmup_epochs": 0.0}  # fmt: skip
RICH: dict[str, Any] = {"mixup": 0.4, "cutmix": 1.0, "random_erasing": 0.5, "ema_decay": 0.9}
UNEQUAL = ChoiceSpace(["abcd", "ab", "a", "abc"])


class FixedBatches:
    """Five batches an epoch, each a function of its number."""

    steps_per_epoch = 5

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        for step in range(start, self.steps_per_epoch):
            seed = 100 * epoch + step
            yield random_images(8, seed=seed), random_labels(8, seed=seed)


def unequal_space() -> SearchSpace:
    """Layers of eight, eight, one and three candidates."""
    return small_space(
        stages=[
            {"width": 16, "depth": 2, "expansion": 2},
            {"width": 24, "depth": 1, "stride": 2, "expansion": 2, "candidates": ["conv3"]},
            {"width": 24, "depth": 1, "expansion": 2, "candidates": ["inv3", "dyn3", "skip"]},
        ]
    )


def new_trainer(kind: str = "fair", seed: int = 0, **recipe: Any) -> Trainer:
    """A supernet for `fair` and `uniform`; `alone` is a stand-alone network."""
    seed_everything(seed, 0)
    common = {"epochs": 2, "batch_size": 8, "learning_rate": 0.05, **recipe}
    if kind == "alone":
        network = build_network(small_space(), ("dyn3", "skip", "inv3", "sk"))
        return Trainer(network, Retrain(**common), FixedBatches.steps_per_epoch, seed)
    supernet = Supernet(unequal_space())
    return Trainer(supernet, Train(sampling=kind, **common), FixedBatches.steps_per_epoch, seed)  # type: ignore[arg-type]


def one_step(trainer: Trainer) -> float:
    return trainer.train_step(random_images(), random_labels())


def full_state(trainer: Trainer) -> dict[str, Any]:
    """Everything a checkpoint holds, flattened to name -> value."""
    flat: dict[str, Any] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(f"{prefix}.{key}", inner)
        elif isinstance(value, (list, tuple)):
            for index, inner in enumerate(value):
                walk(f"{prefix}.{index}", inner)
        else:
            flat[prefix] = value.detach().clone() if isinstance(value, Tensor) else value

    walk("", trainer.state_dict())
    walk("shipped", dict(trainer.shipped().state_dict()))
    return flat


def assert_identical(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert a.keys() == b.keys()
    for key, value in a.items():
        same = torch.equal(value, b[key]) if isinstance(value, Tensor) else value == b[key]
        assert same, key


# Paths


@pytest.mark.parametrize("paths", [fair_paths, uniform_paths])
def test_paths_are_pure_functions_of_seed_and_step(paths) -> None:
    drawn = {(seed, step): paths(UNEQUAL, seed, step) for seed in range(3) for step in range(20)}
    seed_everything(9, 9)  # the global generators play no part
    for (seed, step), path in reversed(drawn.items()):
        assert paths(UNEQUAL, seed, step) == path
    assert len({str(path) for path in drawn.values()}) > 15


def test_fair_paths_teach_every_candidate_exactly_once() -> None:
    for step in range(50):
        paths = fair_paths(UNEQUAL, 0, step)
        assert len(paths) == 4
        for index, layer in enumerate(UNEQUAL.layers):
            taught = [path.architecture[index] for path in paths if path.learns[index]]
            assert sorted(taught) == sorted(layer.candidates)
        for path in paths:
            UNEQUAL.validate(path.architecture)


def test_fair_paths_meet_in_all_combinations_alike() -> None:
    space = ChoiceSpace(["abc", "abc"])
    met = Counter(path.architecture for step in range(1000) for path in fair_paths(space, 0, step))
    counts = np.array([met[a, b] for a in "abc" for b in "abc"])
    # a random permutation matrix: 3/2 of a chi-square of 4 degrees of freedom, 0.999 quantile
    assert ((counts - counts.mean()) ** 2 / counts.mean()).sum() < 27.7


def test_repeats_fall_on_any_path() -> None:
    places = {
        [path.learns[2] for path in fair_paths(UNEQUAL, 0, step)].index(True) for step in range(99)
    }
    assert places == {0, 1, 2, 3}


def test_uniform_paths_visit_all_candidates_alike() -> None:
    visits = Counter(
        choice
        for step in range(2000)
        for choice in enumerate(uniform_paths(UNEQUAL, 0, step)[0].architecture)
    )
    for index, layer in enumerate(UNEQUAL.layers):
        counts = np.array([visits[index, name] for name in layer.candidates])
        expected = 2000 / len(counts)
        assert ((counts - expected) ** 2 / expected).sum() < 16.3  # 3 degrees of freedom


# One step


def test_a_fair_step_moves_every_candidate_once_by_its_own_gradient() -> None:
    trainer = new_trainer("fair", **PLAIN)
    supernet = trainer.model
    assert isinstance(supernet, Supernet)
    before = state_of(supernet)
    taught: Counter[str] = Counter()
    for key, parameter in supernet.named_parameters():
        parameter.register_post_accumulate_grad_hook(lambda _, key=key: taught.update([key]))
    one_step(trainer)
    own = {key for key, _ in supernet.named_parameters() if ".candidates." in key}
    assert {taught[key] for key in own} == {1}
    after = state_of(supernet)
    moved = {tuple(key.split(".")[:4]) for key in changed(before, supernet) & own}
    assert moved == {tuple(key.split(".")[:4]) for key in own}  # of every layer, every candidate
    assert taught["stem.0.weight"] == 8  # once a path
    assert all(parameter.requires_grad for parameter in supernet.parameters())

    # by hand: the gradient of the one path on which the candidate learns, over the paths' count
    supernet.load_state_dict(before)
    for module in supernet.modules():
        if hasattr(module, "anneal"):
            module.anneal(0.0)
    paths = fair_paths(supernet.space, trainer.seed, 0)
    for path in paths:
        supernet.train().zero_grad(set_to_none=True)
        logits = supernet(random_images(), path.architecture)
        (F.cross_entropy(logits, random_labels()) / len(paths)).backward()
        for index, (name, learns) in enumerate(zip(path.architecture, path.learns)):
            for key, parameter in supernet.named_parameters():
                if learns and key.startswith(f"layers.{index}.candidates.{name}."):
                    expected = before[key] - 0.05 * parameter.grad
                    torch.testing.assert_close(after[key], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_uniform_step_leaves_all_others_alone(optimizer: str) -> None:
    trainer = new_trainer(
        "uniform", optimizer=optimizer, weight_decay=0.1, momentum=0.9, warmup_epochs=0
    )
    supernet = trainer.model
    assert isinstance(supernet, Supernet)
    for _ in range(6):  # so that most candidates have momentum
        one_step(trainer)

    def momenta(parameter: Tensor) -> dict[str, Tensor]:
        values = trainer.optimizer.state[parameter]
        return {name: torch.as_tensor(value).clone() for name, value in values.items()}

    state = {key: momenta(parameter) for key, parameter in supernet.named_parameters()}
    assert sum(bool(values) for values in state.values()) > len(state) / 2
    before = state_of(supernet)
    (path,) = uniform_paths(supernet.space, trainer.seed, trainer.step)
    one_step(trainer)
    used = tuple(f"layers.{i}.candidates.{name}." for i, name in enumerate(path.architecture))
    resting = {k for k in before if ".candidates." in k and not k.startswith(used)}
    resting -= {k for k in resting if k.endswith("temperature")}  # a setting of all, not a weight
    assert len(resting) > 50
    moved = changed(before, supernet)
    assert not moved & resting
    for key, parameter in supernet.named_parameters():
        if key in resting:
            assert_identical(momenta(parameter), state[key])
    learned = {k for k in before if k.startswith(used) and k.endswith("weight")}
    assert learned and learned <= moved


def test_gradients_are_clipped() -> None:
    for bound in (1e-3, 1e9):
        trainer = new_trainer("alone", **{**PLAIN, "clip_grad": bound})
        before = state_of(trainer.model)
        one_step(trainer)
        moved = {k: v - before[k] for k, v in trainer.model.named_parameters()}
        norm = torch.cat([v.flatten() for v in moved.values()]).norm().item() / 0.05
        assert norm == pytest.approx(bound, rel=1e-3) if bound < 1 else norm > 0.1


@pytest.mark.parametrize("kind", ["fair", "alone"])
def test_bfloat16_steps_are_finite_and_keep_float32_weights(kind: str) -> None:
    exact, half = (one_step(new_trainer(kind, precision=p)) for p in ("float32", "bfloat16"))
    assert np.isfinite(half) and half != exact
    assert half == pytest.approx(exact, rel=0.05)
    trainer = new_trainer(kind, precision="bfloat16")
    one_step(trainer)
    assert all(p.dtype == torch.float32 for p in trainer.model.parameters())
    assert all(torch.isfinite(p).all() for p in trainer.model.parameters())


def test_learning() -> None:
    trainer = new_trainer("alone", epochs=20)
    losses = [one_step(trainer) for _ in range(30)]
    assert losses[-1] < losses[0] / 5


def temperatures(model: nn.Module) -> list[float]:
    return [value.item() for key, value in model.state_dict().items() if "temperature" in key]


@pytest.mark.parametrize("kind", ["uniform", "alone"])
def test_temperature_falls_from_30_to_1_and_is_saved(tmp_path, kind: str) -> None:
    recipe = {"ema_decay": 0.999} if kind == "alone" else {}
    trainer = new_trainer(kind, **recipe)
    seen: list[float] = []
    fit(trainer, FixedBatches(), tmp_path / "c.pt",
        on_step=lambda *_: seen.append(temperatures(trainer.model)[0]))  # fmt: skip
    assert seen == pytest.approx([30, 24.2, 18.4, 12.6, 6.8, 1, 1, 1, 1, 1])
    for weights in ("model", "averaged"):
        saved = load_checkpoint(tmp_path / "c.pt")[weights]
        if saved is not None:
            assert {v.item() for k, v in saved.items() if "temperature" in k} == {1.0}
    assert set(temperatures(trainer.shipped())) == {1.0}


# Interruptions


@pytest.mark.parametrize(
    ("stop_after", "number"),
    [(3, signal.SIGTERM), (5, signal.SIGTERM), (7, signal.SIGTERM), (5, signal.SIGINT)],
)
@pytest.mark.parametrize("kind", ["fair", "uniform", "alone"])
def test_an_interruption_changes_nothing(tmp_path, kind: str, stop_after: int, number) -> None:
    recipe = RICH if kind == "alone" else {}
    straight = new_trainer(kind, **recipe)
    losses: list[float] = []
    fit(straight, FixedBatches(), on_step=lambda _, loss: losses.append(loss))

    handler = signal.getsignal(number)
    stopped = new_trainer(kind, **recipe)
    first: list[float] = []

    def stop(step: int, loss: float) -> None:
        first.append(loss)
        if step == stop_after:
            os.kill(os.getpid(), number)

    with pytest.raises(KeyboardInterrupt):
        fit(stopped, FixedBatches(), tmp_path / "c.pt", on_step=stop)
    assert len(first) == stop_after
    assert signal.getsignal(number) is handler

    resumed = new_trainer(kind, **recipe)
    seed_everything(77, 77)  # whatever state the new process is in
    fit(resumed, FixedBatches(), tmp_path / "c.pt", on_step=lambda _, loss: first.append(loss))
    assert first == losses
    assert_identical(full_state(resumed), full_state(straight))
    assert not list(tmp_path.glob("*.partial"))


def test_epochs_are_reported_and_saved(tmp_path) -> None:
    trainer = new_trainer("uniform")
    epochs: list[tuple[int, float, int]] = []

    def on_epoch(epoch: int, loss: float) -> None:
        epochs.append((epoch, loss, load_checkpoint(tmp_path / "c.pt")["step"]))

    losses: list[float] = []
    fit(trainer, FixedBatches(), tmp_path / "c.pt", lambda _, loss: losses.append(loss), on_epoch)
    means = [np.mean(losses[:5]), np.mean(losses[5:])]
    assert epochs == [(1, pytest.approx(means[0]), 5), (2, pytest.approx(means[1]), 10)]
    fit(new_trainer("uniform"), FixedBatches(), tmp_path / "c.pt", on_step=lambda *_: 1 / 0)  # done


def save_for_ever(path: Path) -> None:
    for number in range(1_000_000):
        save_checkpoint(path, {"number": number, "weights": torch.full((500_000,), float(number))})


def test_a_kill_while_saving_leaves_a_whole_checkpoint(tmp_path) -> None:
    path = tmp_path / "c.pt"
    last = -1
    rng = np.random.default_rng(0)
    for _ in range(12):
        process = multiprocessing.get_context("fork").Process(target=save_for_ever, args=(path,))
        process.start()
        deadline = time.monotonic() + 30
        written = path.stat().st_mtime_ns if path.exists() else None
        while not path.exists() or path.stat().st_mtime_ns == written:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.02))
        process.kill()  # SIGKILL
        process.join()
        state = load_checkpoint(path)
        assert (state["weights"] == state["number"]).all()
        last = max(last, state["number"])
    assert last > 0


def trained_checkpoint(path: Path) -> bytes:
    trainer = new_trainer("uniform")
    one_step(trainer)
    save_checkpoint(path, trainer.state_dict())
    return path.read_bytes()


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "flipped", "other", "list"])
def test_a_damaged_checkpoint_is_named_and_kept(tmp_path, damage: str) -> None:
    path = tmp_path / "c.pt"
    content = trained_checkpoint(path)
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "text":
        path.write_text("not a checkpoint")
    elif damage == "flipped":
        path.write_bytes(b"\xff" * 2000 + content[2000:])
    elif damage == "other":
        torch.save({"weights": torch.zeros(3)}, path)
    else:
        torch.save([1, 2], path)
    left = path.read_bytes()
    trainer = new_trainer("uniform")
    before = state_of(trainer.model)
    with pytest.raises(UserError, match="checkpoint") as caught:
        fit(trainer, FixedBatches(), path)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == left
    assert not changed(before, trainer.model)


def test_a_damaged_checkpoint_is_named_by_its_path(tmp_path) -> None:
    (tmp_path / "c.pt").write_bytes(b"PK\x03\x04")
    for name, expected in [("c.pt", "damaged"), ("gone.pt", "no such checkpoint")]:
        with pytest.raises(UserError, match=expected) as caught:
            load_checkpoint(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)


class Payload:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("form", ["torch", "pickle"])
def test_a_checkpoint_runs_no_code(tmp_path, form: str) -> None:
    path, payload = tmp_path / "c.pt", Payload(tmp_path / "ran")
    if form == "torch":
        torch.save({"model": payload}, path)
    else:
        path.write_bytes(pickle.dumps(payload, protocol=2))
    with pytest.raises(UserError, match="damaged"):
        load_checkpoint(path)
    assert not payload.marker.exists()


def test_a_checkpoint_of_another_training_is_refused(tmp_path) -> None:
    path = tmp_path / "c.pt"
    trained_checkpoint(path)
    with pytest.raises(UserError, match="seed: 1 differs from the checkpoint's 0"):
        fit(new_trainer("uniform", seed=1), FixedBatches(), path)
    with pytest.raises(UserError, match="another network or recipe"):
        fit(new_trainer("alone"), FixedBatches(), path)


class SpoiledBatches(FixedBatches):
    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        for step, (images, labels) in enumerate(super().epoch(epoch, start)):
            yield (images * float("nan") if epoch == 1 and step == 2 else images), labels


def test_a_loss_that_is_not_finite_stops_the_training(tmp_path) -> None:
    trainer = new_trainer("uniform")
    with pytest.raises(UserError, match=r"loss is nan at step 7.*learning_rate"):
        fit(trainer, SpoiledBatches(), tmp_path / "c.pt")
    state = load_checkpoint(tmp_path / "c.pt")
    assert state["step"] == 5
    assert all(torch.isfinite(value).all() for value in state["model"].values())


def test_a_learning_rate_that_is_far_too_high(tmp_path) -> None:
    trainer = new_trainer("alone", learning_rate=1e12, clip_grad=0, warmup_epochs=0, epochs=4)
    with pytest.raises(UserError, match="try a smaller learning_rate"):
        fit(trainer, FixedBatches(), tmp_path / "c.pt")


# Several processes


def without_norms(module: nn.Module) -> nn.Module:
    """Batch norms see a process's own images; without them the arithmetic is exact."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, nn.Identity())
        else:
            without_norms(child)
    return module


def train_share(rank: int, processes: int, folder: str) -> None:
    torch.set_num_threads(1)
    if processes > 1:
        torch.distributed.init_process_group(
            "gloo", f"file://{folder}/meeting", rank=rank, world_size=processes
        )
    seed_everything(0, 0)
    space = small_space(candidates=("conv3", "inv3", "skip"))
    supernet = without_norms(Supernet(space))
    for parameter in supernet.parameters():
        parameter.data.mul_(0.5)  # nothing else bounds the activations
    recipe = Train(epochs=1, batch_size=8, learning_rate=0.01, clip_grad=0.5)
    trainer = Trainer(supernet, recipe, 4, 0)
    for step in range(4):
        images, labels = random_images(16, seed=step), random_labels(16, seed=step)
        share = slice(rank * 16 // processes, (rank + 1) * 16 // processes)
        trainer.train_step(images[share], labels[share])
    torch.save(supernet.state_dict(), f"{folder}/{processes}-{rank}.pt")
    if processes > 1:
        torch.distributed.destroy_process_group()


def test_two_processes_train_one_network(tmp_path) -> None:
    train_share(0, 1, str(tmp_path))
    torch.multiprocessing.spawn(train_share, (2, str(tmp_path)), nprocs=2)
    single, first, second = (
        torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("1-0", "2-0", "2-1")
    )
    for key, value in single.items():
        assert torch.equal(first[key], second[key]), key
        torch.testing.assert_close(first[key], value, rtol=1e-4, atol=1e-6)

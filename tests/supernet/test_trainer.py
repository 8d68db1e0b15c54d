"""Paths and steps: what learns, and by how much."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from spaces import changed, random_images, random_labels, randomize_norms, small_space, state_of
from torch import Tensor, nn
from torch.nn import functional as F
from trainings import (
    FixedBatches,
    assert_identical,
    new_trainer,
    one_step,
    unequal_space,
)

from configs import UserError
from configs.schema import Retrain, Train
from evaluators.complexity import count_macs, smallest_and_largest
from experiments.classification import network_trainer, supernet_trainer
from search_space import ChoiceSpace, SearchSpace, build_network
from supernet import Supernet, Trainer, fair_paths, fit, seed_everything, uniform_paths
from supernet.checkpoint import load_checkpoint
from supernet.paths import sandwich_paths
from supernet.trainer import schedule

PLAIN: dict[str, Any] = {"optimizer": "momentum", "momentum": 0.0, "weight_decay": 0.0,
                         "clip_grad": 0.0, "warmup_epochs": 0.0}  # fmt: skip
UNEQUAL = ChoiceSpace(["abcd", "ab", "a", "abc"])


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


@pytest.mark.parametrize("paths", [fair_paths, uniform_paths])
def test_paths_are_what_a_search_evaluates(paths) -> None:
    spaces = [SearchSpace.from_yaml("cifar10_cpu"), unequal_space(), small_space()]
    for space in spaces:
        for step in range(50):
            for path in paths(space, 0, step):
                assert path.architecture == space.canonical(path.architecture)


def test_canonical_fair_paths_teach_every_operator_once_and_visit_every_depth() -> None:
    stage = {"width": 24, "depth": 4, "expansion": 2}  # the first layer changes the channels
    space = small_space(stages=[stage])
    depths = Counter()
    for step in range(300):
        paths = fair_paths(space, 0, step)
        assert len(paths) == len(space.layers[1].candidates)
        for index, layer in enumerate(space.layers):
            operators = [name for name in layer.candidates if not space.is_skip(name)]
            choices = [(p.architecture[index], p.learns[index]) for p in paths]
            taught = [name for name, learns in choices if learns and not space.is_skip(name)]
            assert sorted(taught) == sorted(operators)
        depths.update(sum(map(space.is_skip, path.architecture[1:4])) for path in paths)
    assert depths.keys() == {0, 1, 2, 3}
    assert max(depths[n] for n in (1, 2, 3)) < 1.5 * min(depths[n] for n in (1, 2, 3))


def test_a_layer_of_few_candidates_is_skipped_as_often_as_its_share() -> None:
    space = unequal_space()  # the last layer: inv3, dyn3 and skip, on eight paths
    skipped = [
        sum(path.architecture[3] == "skip" for path in fair_paths(space, 0, step))
        for step in range(20)
    ]
    assert set(skipped) == {8 // 3}


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


def test_a_sandwich_holds_both_ends_and_random_paths() -> None:
    space = unequal_space()
    ends = smallest_and_largest(space)
    between = set()
    for step in range(20):
        paths = sandwich_paths(ends, space, 0, step)
        assert paths == sandwich_paths(ends, space, 0, step) != sandwich_paths(ends, space, 1, step)
        largest, *random, smallest = [path.architecture for path in paths]
        assert (smallest, largest) == ends and len(random) == 2
        between |= set(random)
        assert all(all(path.learns) for path in paths)
    assert len(between) > 30


@pytest.mark.parametrize("preset", ["quickstart", "all_operators"])
def test_the_ends_of_a_space_are_those_of_most_and_fewest_macs(preset: str) -> None:
    space = SearchSpace.from_yaml(preset)
    shape = (1, space.in_channels, space.input_size, space.input_size)

    def macs(architecture) -> int:
        return count_macs(build_network(space, architecture), shape)

    smallest, largest = smallest_and_largest(space)
    rng = np.random.default_rng(0)
    drawn = [space.sample(rng) for _ in range(5)]
    for end in (smallest, largest):  # one layer's change is never beyond the end
        assert end == space.canonical(end)
        drawn += [space.mutate(end, rng) for _ in range(5)]
    least, most = macs(smallest), macs(largest)
    assert all(least <= macs(architecture) <= most for architecture in drawn)
    assert any(map(space.is_skip, smallest)) and not any(map(space.is_skip, largest))


# One step


def test_in_a_distilled_sandwich_only_the_largest_path_sees_the_labels() -> None:
    trainer = new_trainer("sandwich", distill=True, **PLAIN)
    supernet = trainer.model
    assert isinstance(supernet, Supernet)
    randomize_norms(supernet)
    seen = []
    loss = trainer.loss

    def spy(outputs: Tensor, targets: Tensor) -> Tensor:
        seen.append((outputs.detach().clone(), targets))
        return loss(outputs, targets)

    trainer.loss = spy
    one_step(trainer)
    (teacher, labels), *taught = seen
    assert torch.equal(labels, random_labels())
    assert len(taught) == 3
    for _, targets in taught:
        torch.testing.assert_close(targets, teacher.softmax(1))
        assert not targets.requires_grad

    trainer = new_trainer("sandwich", **PLAIN)
    seen.clear()
    trainer.loss = spy
    one_step(trainer)
    assert all(torch.equal(targets, random_labels()) for _, targets in seen)


@pytest.mark.parametrize(
    "options", [{"sampling": "fair", "distill": True}, {"sampling": "uniform", "distill": True}]
)
def test_only_a_sandwich_distils(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="distill"):
        Train(**options)


def test_averaged_weights_of_a_supernet_are_what_is_shipped(tmp_path) -> None:
    trainer = new_trainer("sandwich", ema_decay=0.5)
    fit(trainer, FixedBatches(), tmp_path / "checkpoint.pt")
    shipped = trainer.shipped()
    assert isinstance(shipped, Supernet) and shipped is not trainer.model
    last, averaged = trainer.model.state_dict(), shipped.state_dict()
    assert any(not torch.equal(last[key], averaged[key]) for key in last)
    again = new_trainer("sandwich", ema_decay=0.5)
    fit(again, FixedBatches(), tmp_path / "checkpoint.pt")
    assert_identical(again.shipped().state_dict(), averaged)


def test_a_fair_step_moves_every_candidate_once_by_its_own_gradient() -> None:
    trainer = new_trainer("fair", **PLAIN)
    supernet = trainer.model
    assert isinstance(supernet, Supernet)
    randomize_norms(supernet)  # fresh blocks are nothing but their shortcuts
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

    # by hand: the gradient of the one path on which the candidate learns
    supernet.load_state_dict(before)
    for module in supernet.modules():
        if hasattr(module, "anneal"):
            module.anneal(0.0)
    paths = fair_paths(supernet.space, trainer.seed, 0)
    for path in paths:
        supernet.train().zero_grad(set_to_none=True)
        logits = supernet(random_images(), path.architecture)
        F.cross_entropy(logits, random_labels()).backward()
        for index, (name, learns) in enumerate(zip(path.architecture, path.learns)):
            for key, parameter in supernet.named_parameters():
                if learns and key.startswith(f"layers.{index}.candidates.{name}."):
                    expected = before[key] - 0.05 * parameter.grad
                    torch.testing.assert_close(after[key], expected, rtol=1e-4, atol=1e-6)


def candidate_of_layer_0(supernet: nn.Module) -> tuple[str, nn.Parameter]:
    """The convolution of the first layer's candidate `conv3`: it has weight decay."""
    name = "layers.0.candidates.conv3.0.weight"
    return name, supernet.get_parameter(name)


@pytest.mark.parametrize("combined", ["mean", "sum"])
def test_gradients_of_paths_are_averaged_or_summed(combined: str) -> None:
    trainer = new_trainer("fair", path_gradients=combined, **PLAIN)
    supernet = trainer.model
    assert isinstance(supernet, Supernet)
    randomize_norms(supernet)
    name, parameter = candidate_of_layer_0(supernet)
    before = state_of(supernet)
    loss = one_step(trainer)
    after = state_of(supernet)

    supernet.load_state_dict(before)
    for module in supernet.modules():
        if hasattr(module, "anneal"):
            module.anneal(0.0)
    gradients, losses = [], []
    paths = fair_paths(supernet.space, trainer.seed, 0)
    for path in paths:
        supernet.train().zero_grad(set_to_none=True)
        each = F.cross_entropy(supernet(random_images(), path.architecture), random_labels())
        each.backward()
        losses.append(each.item())
        if (path.architecture[0], path.learns[0]) == ("conv3", True):
            own = parameter.grad.clone()
        gradients.append(supernet.stem.get_parameter("0.weight").grad.clone())
    share = 1 / len(paths) if combined == "mean" else 1
    torch.testing.assert_close(after[name], before[name] - 0.05 * share * own)
    shared = before["stem.0.weight"] - 0.05 * share * torch.stack(gradients).sum(0)
    torch.testing.assert_close(after["stem.0.weight"], shared, rtol=1e-4, atol=1e-6)
    assert loss == pytest.approx(np.mean(losses))  # of a path, whatever is done with gradients


@pytest.mark.parametrize(
    ("sampling", "combined", "share"),
    [("fair", "mean", 1 / 8), ("fair", "sum", 1.0), ("uniform", "mean", 1.0)],
)
def test_weight_decay_is_in_proportion_to_what_a_candidate_learns(
    sampling: str, combined: str, share: float
) -> None:
    trainer = new_trainer(sampling, path_gradients=combined, **{**PLAIN, "weight_decay": 0.1})
    decays = {
        id(parameter): group["weight_decay"]
        for group in trainer.optimizer.param_groups
        for parameter in group["params"]
    }
    names = dict(trainer.model.named_parameters())
    assert decays.keys() == {id(parameter) for parameter in names.values()}
    _, candidate = candidate_of_layer_0(trainer.model)
    assert decays[id(candidate)] == pytest.approx(0.1 * share)
    assert decays[id(names["stem.0.weight"])] == 0.1
    assert decays[id(names["fc.bias"])] == 0.0
    rates = {group["lr"] for group in trainer.optimizer.param_groups}
    assert len(rates) == 1  # the schedule moves all groups alike


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
    losses = [one_step(trainer) for _ in range(45)]
    assert losses[-1] < losses[0] / 5


@pytest.mark.parametrize("steps", [1, 2, 9, 12 * 81])
@pytest.mark.parametrize("warmup", [0, 1, 5, 81])
def test_the_schedule_rises_to_the_peak_and_ends_at_zero(steps: int, warmup: int) -> None:
    warmup = min(warmup, steps // 2)
    rates = [schedule(step, steps, warmup) for step in range(steps)]
    assert max(rates) == rates[warmup] == 1
    assert all(a < b for a, b in pairwise(rates[: warmup + 1])) and min(rates) >= 0
    assert all(a > b for a, b in pairwise(rates[warmup:]))
    if steps - warmup > 1:
        assert rates[-1] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("warmup_epochs", [0, 0.5, 1, 50])
@pytest.mark.parametrize("kind", ["uniform", "alone"])
def test_the_learning_rate_of_the_last_step_is_zero(kind: str, warmup_epochs: float) -> None:
    trainer = new_trainer(kind, epochs=3, warmup_epochs=warmup_epochs)
    rates = []
    fit(trainer, FixedBatches(), on_step=lambda *_: rates.append(
        max(group["lr"] for group in trainer.optimizer.param_groups)))  # fmt: skip
    assert max(rates) == 0.05
    assert rates[-1] == pytest.approx(0, abs=1e-12)
    warmup = rates.index(0.05)
    assert warmup == min(int(warmup_epochs * 5), 7)  # never more than half of the training


@pytest.mark.parametrize("mixing", [{"mixup": 1.0}, {"cutmix": 1.0}])
@pytest.mark.parametrize("batch", [1, 3, 7, 8])
def test_batches_of_any_size_are_mixed(mixing: dict[str, float], batch: int) -> None:
    network = build_network(small_space(), ("conv3",) * 4)
    trainer = network_trainer(network, Retrain(label_smoothing=0.1, **mixing), 5, 0)
    images, labels = random_images(batch), torch.arange(batch)
    for step in range(20):
        seed_everything(0, step)
        mixed, targets = trainer.transform(images.clone(), labels)
        assert mixed.shape == images.shape and targets.shape == (batch, 10)
        torch.testing.assert_close(targets.sum(1), torch.ones(batch))
        if targets.max() < 0.9 and batch > 1:  # a share between the images, not one of them
            assert all((row > 0.01001).sum() == 2 for row in targets)
            assert all(not torch.equal(a, b) for a, b in zip(mixed, images))
            break
    else:
        assert batch == 1


def infinite_from(trainer: Trainer, step: int) -> None:
    """Let the gradient of one step be infinite, though its loss is finite."""

    def spoil(gradient: Tensor) -> Tensor:
        return gradient / 0 if trainer.step == step else gradient

    next(trainer.model.parameters()).register_hook(spoil)


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
@pytest.mark.parametrize(("step", "epochs_saved"), [(9, 1), (4, 0)])
def test_weights_that_are_not_finite_are_never_saved(
    tmp_path, step: int, epochs_saved: int, ema_decay: float
) -> None:
    trainer = new_trainer("alone", ema_decay=ema_decay, clip_grad=0)
    infinite_from(trainer, step)
    file, ended = tmp_path / "checkpoint.pt", []
    with pytest.raises(UserError, match=rf"is not finite after step {step} .*learning_rate"):
        fit(trainer, FixedBatches(), file, on_epoch=lambda *_: ended.append(1))
    assert len(ended) == epochs_saved == int(file.exists())
    if epochs_saved:
        saved = load_checkpoint(file)
        assert saved["step"] == 5
        assert all(value.isfinite().all() for value in saved["model"].values())


def test_fine_tuning_goes_on_at_the_supernets_temperature() -> None:
    supernet = new_trainer("uniform")
    fit(supernet, FixedBatches())
    assert isinstance(supernet.model, Supernet)
    network = supernet.model.extract(("dyn3", "skip", "conv3", "dyn3"))
    recipe = Retrain(epochs=2, ema_decay=0.9, inherit=True)
    trainer = network_trainer(network, recipe, FixedBatches.steps_per_epoch, 0)
    seen: list[float] = []
    fit(trainer, FixedBatches(), on_step=lambda *_: seen.extend(temperatures(trainer.model)))
    assert set(seen) == set(temperatures(trainer.shipped())) == {1.0}


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
    trainer = supernet_trainer(supernet, recipe, 4, 0)
    for step in range(4):
        images, labels = random_images(16, seed=step), random_labels(16, seed=step)
        share = slice(rank * 16 // processes, (rank + 1) * 16 // processes)
        trainer.train_step(images[share], labels[share])
    torch.save(supernet.state_dict(), f"{folder}/{processes}-{rank}.pt")
    if processes > 1:
        broken = torch.full_like(images[share], math.inf) if rank == 1 else images[share]
        with pytest.raises(UserError, match="the loss is nan"):  # in all processes
            trainer.train_step(broken, labels[share])
        torch.distributed.destroy_process_group()


def erased(rank: int, folder: str) -> None:
    """Two steps on the same images in every process; what erasing made of them is saved."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", f"file://{folder}/meeting", rank=rank, world_size=2
    )
    trainer, seen = new_trainer("alone", random_erasing=0.9), []
    transform = trainer.transform

    def followed(images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        images, targets = transform(images, targets)
        seen.append(images.clone())
        return images, targets

    trainer.transform = followed
    for _ in range(2):
        trainer.train_step(random_images(), random_labels())
    torch.save(torch.stack(seen), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_every_process_erases_other_rectangles(tmp_path) -> None:
    runs = []
    for run in ("a", "b"):
        (tmp_path / run).mkdir()
        torch.multiprocessing.spawn(erased, (str(tmp_path / run),), nprocs=2)
        runs.append([torch.load(tmp_path / run / f"{rank}.pt") for rank in range(2)])
    (first, second), again = runs
    assert torch.equal(first, again[0]) and torch.equal(second, again[1])
    untouched = random_images()
    for step in range(2):
        a, b = first[step] != untouched, second[step] != untouched
        assert a.any() and b.any() and not torch.equal(a, b)


def test_two_processes_train_one_network(tmp_path) -> None:
    train_share(0, 1, str(tmp_path))
    torch.multiprocessing.spawn(train_share, (2, str(tmp_path)), nprocs=2)
    single, first, second = (
        torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("1-0", "2-0", "2-1")
    )
    for key, value in single.items():
        assert torch.equal(first[key], second[key]), key
        torch.testing.assert_close(first[key], value, rtol=1e-4, atol=1e-6)

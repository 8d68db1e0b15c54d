"""Splits and batches. Every test image has one colour: red is its number, green its class."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from spaces import small_config, space_values

from configs import Config, UserError
from configs.schema import Data
from experiments.data.augmentation import shift_and_mirror
from experiments.data.holding_out import stratified_split
from experiments.data.preprocessing import channel_statistics
from experiments.data.sources.perturbed_digits import VERSIONS
from experiments.data.splits import (
    Splits,
    describe,
    find_source,
    load_splits,
)
from supernet import seed_everything

CLASSES = ("cat", "dog", "owl", "yak")


def colour(number: int, label: int) -> tuple[int, int, int]:
    return (number, 60 * label, 200)


def make_folder(root: Path, per_class: int = 20, first: int = 0, suffix: str = "png") -> Path:
    """One folder per class; the images' numbers count on from `first`."""
    for label, name in enumerate(CLASSES):
        (root / name).mkdir(parents=True)
        for index in range(per_class):
            image = Image.new("RGB", (12, 10), colour(first + label * per_class + index, label))
            image.save(root / name / f"{index:03d}.{suffix}")
    return root


def make_tar(path: Path, folder: Path) -> Path:
    with tarfile.open(path, "w") as tar:
        tar.add(folder, arcname=".")
    return path


def config_for(root: Path | str = "", batch: int = 8, seed: int = 0, **data: Any) -> Config:
    space = {**space_values(), "in_channels": 3, "num_classes": len(CLASSES)}
    return small_config(
        seed=seed,
        space=space,
        train={"batch_size": batch},
        evaluate={"calibration_images": 24, "batch_size": 16},
        data={"name": "images", "root": str(root), "loading_workers": 0, **data},
    )


def numbers(batches: Any, splits: Splits) -> list[int]:
    """The numbers of the images of some batches; checks that their labels are right."""
    mean, std = (torch.tensor(v) for v in (splits.preprocessing.mean, splits.preprocessing.std))
    found = []
    for images, labels in batches:
        assert images.shape[1:] == (3, 8, 8) and images.dtype == torch.float32
        pixels = ((images[:, :, 4, 4] * std + mean) * 255).round().int()
        assert pixels[:, 1].tolist() == (60 * labels).tolist()
        found += pixels[:, 0].tolist()
    return found


def same(a: Any, b: Any) -> bool:
    a, b = list(a), list(b)
    return len(a) == len(b) and all(
        torch.equal(x, u) and torch.equal(y, v) for (x, y), (u, v) in zip(a, b)
    )


PATHS = {"memory": {}, "disk": {"memory_limit_mb": 0}}
both_paths = pytest.mark.parametrize("path", PATHS)


@both_paths
@pytest.mark.parametrize("form", ["folder", "tar", "parts", "tars", "timm"])
def test_three_disjoint_splits(tmp_path, form: str, path: str) -> None:
    data: dict[str, Any] = dict(PATHS[path])
    if form in ("folder", "tar"):  # no test split of its own
        root = make_folder(tmp_path / "all", 25)
        if form == "tar":
            root = make_tar(tmp_path / "all.tar", root)
        exact = False
    else:
        root = tmp_path
        make_folder(tmp_path / "train", 20)
        make_folder(tmp_path / "val", 5, first=80)
        if form == "tars":
            for part in ("train", "val"):
                (tmp_path / part).rename(tmp_path / f"{part}-folder")
                make_tar(tmp_path / f"{part}.tar", tmp_path / f"{part}-folder")
        if form == "timm":
            data["name"] = "torch/image_folder"
        exact = form == "timm"  # no names of files: a share of every class is held out
    splits = load_splits(config_for(root, batch=1, **data), "cpu", test=True)
    assert sum(splits.sizes.values()) == 100
    for side, size in (("train", 64), ("validation", 16), ("test", 20)):
        assert abs(splits.sizes[side] - size) <= (0 if exact else 10)
    assert splits.class_names == list(CLASSES)
    train = numbers(splits.train.epoch(0), splits)
    validation, test = numbers(splits.validation, splits), numbers(splits.test, splits)
    assert sorted(train + validation + test) == list(range(100))
    if form in ("parts", "tars", "timm"):
        assert sorted(test) == list(range(80, 100))
    calibration = numbers(splits.calibration, splits)
    assert len(set(calibration)) == len(calibration) == 16  # 24 wanted, full batches of 16
    assert form not in ("parts", "tars", "timm") or splits.sizes["test"] == 20
    assert set(calibration) <= set(train)
    for split, each in ((train, 16), (validation, 4), (test, 5)):
        classes = [
            number // 5 - 16
            if number >= 80 and form not in ("folder", "tar")
            else number // (25 if form in ("folder", "tar") else 20)
            for number in split
        ]
        found = [classes.count(label) for label in range(4)]
        assert found == [each] * 4 if exact else min(found) >= 1


def test_all_seeds_share_every_split(tmp_path) -> None:
    root = make_folder(tmp_path / "all", 25)

    def held_out(**settings: Any) -> list[list[int]]:
        splits = load_splits(config_for(root, batch=1, limit=60, **settings), "cpu", test=True)
        parts = (splits.train.epoch(0), splits.validation, splits.test, splits.calibration)
        return [sorted(numbers(part, splits)) for part in parts]

    assert held_out(seed=0) == held_out(seed=1)
    assert held_out(seed=1) == held_out(seed=2**32 - 1)
    for part, other in zip(held_out(), held_out(split_seed=1)):
        assert part != other


def make_photographs(root: Path, mode: str = "RGB", per_class: int = 12) -> Path:
    """Class folders of noise, of several sizes and shapes; some are square."""
    rng = np.random.default_rng(0)
    for label, name in enumerate(CLASSES):
        (root / name).mkdir(parents=True)
        for index in range(per_class):
            shape = ((9, 14), (20, 11), (16, 16), (8, 8))[index % 4]
            pixels = rng.integers(40 * label, 90 + 40 * label, (*shape, 3), dtype=np.uint8)
            Image.fromarray(pixels).convert(mode).save(root / name / f"{index}.png")
    return root


AUGMENTATIONS: dict[str, dict[str, Any]] = {
    "none": {},
    "shift and mirror": {"crop_padding": 2, "flip": True},
    "policy": {"crop_padding": 1, "flip": True, "auto_augment": "rand-m9-mstd0.5"},
    "resized crops": {"crop_scale": 0.3, "flip": True, "auto_augment": "original"},
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_where_images_are_kept_changes_nothing(tmp_path, augmentation: str, channels: int) -> None:
    root = make_photographs(tmp_path / "all", "L" if channels == 1 else "RGB")
    space = {**space_values(), "in_channels": channels, "num_classes": len(CLASSES)}

    def load(**where: Any) -> Splits:
        data = {"name": "images", "root": str(root), **AUGMENTATIONS[augmentation], **where}
        config = small_config(
            space=space,
            train={"batch_size": 8},
            evaluate={"calibration_images": 24, "batch_size": 16},
            data=data,
        )
        return load_splits(config, "cpu", test=True)

    memory = load(loading_workers=0)
    for other in (load(memory_limit_mb=0, loading_workers=0), load(memory_limit_mb=0),
                  load(loading_workers=1)):  # fmt: skip
        assert other.preprocessing == memory.preprocessing
        for ours, theirs in (
            (memory.calibration, other.calibration),
            (memory.validation, other.validation),
            (memory.test, other.test),
            (memory.train.epoch(0), other.train.epoch(0)),
            (memory.train.epoch(1, 2), other.train.epoch(1, 2)),
        ):
            assert same(ours, theirs)
    assert memory.validation.pixels.kept is not None
    assert load(memory_limit_mb=0).validation.pixels.kept is None


def test_a_search_and_a_retraining_keep_images_alike(tmp_path) -> None:
    """16,000 photographs at 8x8 fill 3 MB; the test images, not read by a search, play no part."""
    make_folder(tmp_path / "train", 20)
    make_folder(tmp_path / "test", 20, first=80)
    config = config_for(tmp_path)
    bytes_of_training = 80 * 3 * 8 * 8
    for limit, kept in ((0, False), (1, True)):
        assert (bytes_of_training <= limit * 2**20) == kept
        config = config_for(tmp_path, memory_limit_mb=limit)
        for test in (False, True):
            splits = load_splits(config, "cpu", test=test)
            assert (splits.train.pixels.kept is not None) == kept


@pytest.mark.parametrize("path", ["memory", "disk"])
def test_timm_prepares_an_image_alike_for_evaluation(tmp_path, path: str) -> None:
    from timm.data import create_transform

    root = make_photographs(tmp_path / "all")
    splits = load_splits(config_for(root, **PATHS[path]), "cpu")
    p = splits.preprocessing
    transform = create_transform((p.channels, p.size, p.size), mean=p.mean, std=p.std,
                                 crop_pct=p.crop, interpolation=p.interpolation)  # fmt: skip
    source = splits.validation.pixels.images
    expected = torch.stack([transform(source.read(int(i))) for i in splits.validation.indices])
    images = torch.cat([images for images, _ in splits.validation])
    torch.testing.assert_close(images, expected, rtol=1e-5, atol=1e-5)


def test_statistics_are_computed_once_and_kept(tmp_path) -> None:
    root, file = make_photographs(tmp_path / "all"), tmp_path / "run" / "statistics.json"
    first = load_splits(config_for(root), "cpu", statistics=file).preprocessing
    assert first == load_splits(config_for(root), "cpu").preprocessing
    stored = json.loads(file.read_text())
    assert tuple(stored["mean"]) == first.mean and tuple(stored["std"]) == first.std
    stored["mean"] = [0.25] * 3
    file.write_text(json.dumps(stored))
    for data in PATHS.values():  # whatever reads it takes what is there
        splits = load_splits(config_for(root, seed=7, **data), "cpu", statistics=file, test=True)
        assert splits.preprocessing.mean == (0.25,) * 3
    for data in ({"limit": 30}, {"split_seed": 1}, {"validation_fraction": 0.4}):  # other images
        splits = load_splits(config_for(root, **data), "cpu", statistics=file)
        assert splits.preprocessing.mean != (0.25,) * 3
        assert splits.preprocessing == load_splits(config_for(root, **data), "cpu").preprocessing


def test_statistics_of_many_images_are_those_of_a_part(tmp_path, monkeypatch) -> None:
    root = make_photographs(tmp_path / "all")
    everything = load_splits(config_for(root), "cpu").preprocessing
    monkeypatch.setattr("experiments.data.splits.COUNTED", 20)
    part = [load_splits(config_for(root, **data), "cpu").preprocessing for data in PATHS.values()]
    assert part[0] == part[1] != everything
    assert part[0].mean == pytest.approx(everything.mean, rel=0.2)


def test_digits() -> None:
    splits = load_splits(small_config(train={"batch_size": 64}), "cpu", test=True)
    assert splits.sizes == {"train": 1149, "validation": 288, "test": 360}
    images, labels = next(splits.train.epoch(0))
    assert images.shape == (64, 1, 8, 8) and labels.shape == (64,)
    everything = torch.cat([labels for _, labels in splits.test])
    assert everything.bincount(minlength=10).tolist() == [36, 37, 35, 37, 36, 36, 36, 36, 35, 36]
    plain = small_config(train={"batch_size": 1149})
    (everything,) = (images for images, _ in load_splits(plain, "cpu").train.epoch(0))
    assert abs(everything.mean()) < 1e-3 and everything.std() == pytest.approx(1, abs=1e-3)
    assert "1149 train" in describe(splits, small_config())


@both_paths
def test_limit(tmp_path, path: str) -> None:
    root = make_folder(tmp_path / "all", 25)
    splits = load_splits(config_for(root, limit=40, **PATHS[path]), "cpu", test=True)
    assert splits.sizes["train"] + splits.sizes["validation"] == 40
    everything = load_splits(config_for(root, **PATHS[path]), "cpu", test=True)
    assert sum(everything.sizes.values()) == 100
    assert everything.sizes["test"] == splits.sizes["test"]
    assert numbers(everything.test, everything) == numbers(splits.test, splits)
    rest = 100 - everything.sizes["test"]
    nearly = load_splits(config_for(root, limit=rest - 1, **PATHS[path]), "cpu")
    assert sum(nearly.sizes.values()) == rest - 1  # one image fewer than there are
    larger = load_splits(config_for(root, limit=1000, **PATHS[path]), "cpu")
    assert sum(larger.sizes.values()) == rest


@both_paths
def test_batches_are_functions_of_seed_epoch_and_step(tmp_path, path: str) -> None:
    root = tmp_path / "all"
    rng = np.random.default_rng(0)
    for name in CLASSES:  # images with a pattern, so that augmentation shows
        (root / name).mkdir(parents=True)
        for index in range(20):
            pixels = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{index}.png")
    options: dict[str, Any] = {"flip": True, "crop_padding": 2, **PATHS[path]}
    options["auto_augment"] = "rand-m9-mstd0.5"

    def train(seed: int = 0, **more: Any) -> Any:
        return load_splits(config_for(root, seed=seed, **{**options, **more}), "cpu").train

    batches = train()
    first = list(batches.epoch(1))
    assert len(first) == batches.steps_per_epoch >= 5
    seed_everything(99, 99)  # whatever happened in between
    assert same(batches.epoch(1), first)
    assert same(train().epoch(1), first)
    for start in (1, 4):
        assert same(train().epoch(1, start), first[start:])
    assert not same(batches.epoch(0), first)
    assert not same(train(seed=1).epoch(1), first)
    plain = train(flip=False, crop_padding=0, auto_augment="")
    assert [y.tolist() for _, y in plain.epoch(1)] == [y.tolist() for _, y in first]
    assert not same(plain.epoch(1), first)
    orders = [[y.tolist() for _, y in plain.epoch(epoch)] for epoch in range(2)]
    assert orders[0] != orders[1]  # shuffled anew


@pytest.mark.parametrize("form", ["folder", "tar"])
def test_loading_processes_change_nothing(tmp_path, form: str) -> None:
    root = make_folder(tmp_path / "all", 20)
    if form == "tar":
        root = make_tar(tmp_path / "all.tar", root)
    options = {"memory_limit_mb": 0, "flip": True, "auto_augment": "rand-m9-mstd0.5"}
    alone, two = (
        load_splits(config_for(root, **options, loading_workers=workers), "cpu")
        for workers in (0, 2)
    )
    assert same(alone.train.epoch(0), two.train.epoch(0))
    assert same(alone.train.epoch(1, 3), two.train.epoch(1, 3))
    assert same(alone.validation, two.validation)


@both_paths
def test_evaluation_batches_never_change(tmp_path, path: str) -> None:
    root = make_folder(tmp_path / "all", 25)
    options = {"flip": True, "crop_padding": 2, **PATHS[path]}
    splits = load_splits(config_for(root, **options), "cpu", test=True)
    for batches in (splits.calibration, splits.validation, splits.test):
        first = list(batches)
        list(splits.train.epoch(0))
        assert same(batches, first)


@both_paths
@pytest.mark.parametrize("augmentation", ["shift and mirror", "policy"])
def test_an_image_is_augmented_alike_in_every_process(
    tmp_path, augmentation: str, path: str
) -> None:
    root, data = make_photographs(tmp_path / "all"), {**AUGMENTATIONS[augmentation], **PATHS[path]}
    alone = load_splits(config_for(root, batch=8, **data), "cpu").train.epoch(2)
    config = config_for(root, batch=4, **data)
    shares = [
        load_splits(config, "cpu", rank=rank, world_size=2).train.epoch(2) for rank in range(2)
    ]
    for (images, _), (first, _), (second, _) in zip(alone, *shares):
        assert torch.equal(images, torch.cat([first, second]))


@both_paths
def test_processes_share_every_batch(tmp_path, path: str) -> None:
    root = make_folder(tmp_path / "all", 20)
    config = config_for(root, batch=4, **PATHS[path])
    shares = [load_splits(config, "cpu", rank=rank, world_size=2) for rank in range(2)]
    seen: list[int] = []
    for split in shares:
        assert split.train.steps_per_epoch == 6
        seen += numbers(split.train.epoch(0), split)
    assert len(seen) == len(set(seen)) == 48
    together = load_splits(config_for(root, batch=8, **PATHS[path]), "cpu")
    whole = numbers(together.train.epoch(0), together)
    first, second = (numbers(split.train.epoch(0), split) for split in shares)
    assert whole == [n for i in range(0, 24, 4) for n in (*first[i : i + 4], *second[i : i + 4])]


def test_crops_are_windows_of_the_padded_image() -> None:
    images = torch.arange(1.0, 1 + 40 * 2 * 5 * 6).view(40, 2, 5, 6)
    chances = np.random.default_rng(0).random((40, 3))
    out = shift_and_mirror(images, chances, padding=2, flip=False)
    padded = torch.nn.functional.pad(images, (2,) * 4)
    offsets = set()
    for image, cut in zip(padded, out):
        found = [
            (top, left)
            for top in range(5)
            for left in range(5)
            if torch.equal(image[:, top : top + 5, left : left + 6], cut)
        ]
        assert len(found) == 1
        offsets.update(found)
    assert len(offsets) > 12
    assert {top for top, _ in offsets} == {left for _, left in offsets} == set(range(5))


def test_flips_mirror_about_half_of_the_images() -> None:
    images = torch.arange(1.0, 1 + 200 * 4).view(200, 1, 2, 2)
    chances = np.random.default_rng(0).random((200, 3))
    out = shift_and_mirror(images, chances, padding=0, flip=True)
    flipped = [torch.equal(a.flip(2), b) for a, b in zip(images, out)]
    assert all(f or torch.equal(a, b) for f, a, b in zip(flipped, images, out))
    assert 70 < sum(flipped) < 130


def test_statistics_are_those_of_the_training_images() -> None:
    images = torch.randint(0, 256, (9, 2, 4, 4), dtype=torch.uint8)
    mean, std = channel_statistics(images.split(4))
    assert (mean, std) == channel_statistics(images.flip(0).split(2))  # bit for bit
    values = images.numpy().transpose(1, 0, 2, 3).reshape(2, -1) / 255
    np.testing.assert_allclose(mean, values.mean(1))
    np.testing.assert_allclose(std, values.std(1, ddof=1))


def test_grey_images_of_any_shape(tmp_path) -> None:
    make_folder(tmp_path / "all", 20)
    space = {**space_values(), "in_channels": 1, "num_classes": 4}
    config = small_config(
        space=space, train={"batch_size": 8}, data={"name": "images", "root": str(tmp_path / "all")}
    )
    images, _ = next(load_splits(config, "cpu").train.epoch(0))
    assert images.shape == (8, 1, 8, 8)


def test_classes_are_told_by_their_folder_not_by_their_place(tmp_path) -> None:
    root = make_folder(tmp_path / "all", 10)
    for name, new in zip(CLASSES, ("1", "2", "10", "20")):  # as text: 1, 10, 2, 20
        (root / name).rename(root / new)
    splits = load_splits(config_for(root), "cpu")
    numbers(splits.train.epoch(0), splits)  # compares colours with labels
    assert splits.class_names == ["1", "2", "10", "20"]


# What is wrong is named


def refusal(config: Config, test: bool = False) -> str:
    with pytest.raises(UserError) as caught:
        splits = load_splits(config, "cpu", test=test)
        for batches in (splits.train.epoch(0), splits.validation, splits.test or ()):
            list(batches)
    return str(caught.value)


def test_missing_and_empty_folders(tmp_path) -> None:
    gone = tmp_path / "gone"
    assert "data.root" in (message := refusal(config_for(gone))) and str(gone) in message
    (empty := tmp_path / "empty").mkdir()
    message = refusal(config_for(empty))
    assert str(empty) in message and "one folder of images per class" in message
    root = make_folder(tmp_path / "all", 10)
    (root / "bee").mkdir()
    assert str(root / "bee") in (message := refusal(config_for(root)))
    assert "holds no images" in message
    (root / "bee" / "notes.txt").write_text("no image")
    assert str(root / "bee") in refusal(config_for(root))


def test_a_class_folder_that_is_empty_in_the_test_split(tmp_path) -> None:
    make_folder(tmp_path / "train", 10)
    make_folder(tmp_path / "test", 3, first=40)
    for file in (tmp_path / "test" / "owl").iterdir():
        file.unlink()
    message = refusal(config_for(tmp_path), test=True)
    assert str(tmp_path / "test" / "owl") in message
    (tmp_path / "test" / "owl").rmdir()
    message = refusal(config_for(tmp_path), test=True)
    assert str(tmp_path / "test") in message and "owl" in message


@both_paths
@pytest.mark.parametrize("form", ["folder", "tar"])
@pytest.mark.parametrize("content", [b"", b"no image", None])
def test_an_unreadable_image(tmp_path, path: str, form: str, content: bytes | None) -> None:
    root = make_folder(tmp_path / "all", 10)
    if content is None:  # cut off
        buffer = io.BytesIO()
        Image.effect_noise((12, 10), 50).convert("RGB").save(buffer, "png")
        content = buffer.getvalue()[:120]
    for file in (root / "dog").iterdir():  # in whatever split
        file.write_bytes(content)
    if form == "tar":
        root = make_tar(tmp_path / "all.tar", root)
    message = refusal(config_for(root, **PATHS[path]))
    assert "the image can't be read" in message
    assert str(root) in message and "dog" in message and ".png" in message


@both_paths
def test_an_unreadable_image_in_a_loading_process(tmp_path, path: str) -> None:
    root = make_folder(tmp_path / "all", 10)
    for file in (root / "dog").iterdir():
        file.write_bytes(b"")
    message = refusal(config_for(root, **PATHS[path], loading_workers=1))
    assert message.startswith(str(root / "dog")) and "the image can't be read" in message
    assert "Traceback" not in message


@pytest.mark.parametrize("content", [b"", b"no tar", None])
def test_a_damaged_tar(tmp_path, content: bytes | None) -> None:
    tar = make_tar(tmp_path / "all.tar", make_folder(tmp_path / "all", 10))
    tar.write_bytes(tar.read_bytes()[:3000] if content is None else content)
    assert str(tar) in refusal(config_for(tar))


def test_a_class_count_that_does_not_match(tmp_path) -> None:
    root = make_folder(tmp_path / "all", 10)
    (root / "yak").rename(tmp_path / "yak")
    message = refusal(config_for(root))
    assert "space.num_classes: 4" in message and str(root) in message and "3 classes" in message


def test_every_class_keeps_an_image(tmp_path) -> None:
    root = make_folder(tmp_path / "all", 20)
    assert "data.limit" in refusal(config_for(root, limit=3))
    for file in sorted((root / "yak").iterdir())[2:]:
        file.unlink()
    message = refusal(config_for(root, limit=6, batch=4))
    assert "data.limit" in message and "a class of 1 would be left without images" in message


@pytest.mark.parametrize("limit", [1, 13, 700, 1430, 1436, 1437, 9999])
def test_any_limit_gives_that_number_of_images(limit: int) -> None:
    config = small_config(train={"batch_size": 1}, data={"limit": limit})
    if limit < 10:
        assert refusal(config).startswith("data.limit")
    elif limit == 13:
        assert refusal(config).startswith("data.validation_fraction")
    else:
        assert sum(load_splits(config, "cpu").sizes.values()) == min(limit, 1437)


def test_shares_of_classes_are_equal_to_an_image() -> None:
    labels = np.random.default_rng(0).choice(5, 403, p=[0.5, 0.2, 0.15, 0.1, 0.05])
    sizes = np.bincount(labels)
    for count in (5, 41, 100, 350):
        rest, held = stratified_split(np.arange(403), labels, count, 0, "some key")
        assert len(held) == count and sorted([*rest, *held]) == list(range(403))
        assert (abs(np.bincount(labels[held], minlength=5) - sizes * count / 403) < 1).all()
        assert (np.diff(held) < 0).any()  # shuffled


def test_a_fraction_without_effect_is_refused(tmp_path) -> None:
    make_folder(tmp_path / "train", 10)
    make_folder(tmp_path / "test", 3, first=40)
    message = refusal(config_for(tmp_path, test_fraction=0.3))
    assert "data.test_fraction: 0.3 has no effect" in message
    assert load_splits(config_for(tmp_path), "cpu", test=True).sizes["test"] == 12


@pytest.mark.parametrize("policy", ["nonsense", "rand-x9", "augmix-q3"])
def test_a_policy_that_timm_does_not_know(policy: str) -> None:
    message = refusal(small_config(data={"auto_augment": policy}))
    assert message.startswith(f"data.auto_augment: {policy!r} is no policy of timm")


def test_a_policy_that_fails_on_an_image(tmp_path) -> None:
    root = make_photographs(tmp_path / "all")
    message = refusal(config_for(root, auto_augment="v0"))  # posterizes to 0 bits
    assert message.startswith("data.auto_augment: the policy fails on an image (bits must be")


@pytest.mark.parametrize("policy", ["rand-m15-n4", "augmix-m5-w4", "original", "3a"])
@pytest.mark.parametrize("channels", [1, 3])
def test_policies_of_timm_take_grey_and_colour(tmp_path, policy: str, channels: int) -> None:
    root = make_photographs(tmp_path / "all")
    space = {**space_values(), "in_channels": channels, "num_classes": 4}
    data = {"name": "images", "root": str(root), "auto_augment": policy, "loading_workers": 0}
    config = small_config(space=space, train={"batch_size": 15}, data=data)
    train = load_splits(config, "cpu").train
    for epoch in range(4):
        for images, _ in train.epoch(epoch):
            assert images.shape == (15, channels, 8, 8) and images.isfinite().all()


def test_splits_that_are_too_small(tmp_path) -> None:
    root = make_folder(tmp_path / "all", 1)
    assert "data.test_fraction" in refusal(config_for(root))
    make_folder(tmp_path / "train", 1)
    make_folder(tmp_path / "test", 2, first=8)
    assert "data.validation_fraction" in refusal(config_for(tmp_path))
    large = make_folder(tmp_path / "large", 10)
    message = refusal(config_for(large, batch=64))
    assert "batch_size: 64" in message and "training images" in message


def test_more_processes_than_images(tmp_path) -> None:
    config = config_for(make_folder(tmp_path / "all", 10))
    with pytest.raises(UserError, match="batch_size"):
        load_splits(config, "cpu", rank=0, world_size=4)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("torch/nothing", "can't be opened"),
        ("imagse", "did you mean 'images'?"),
        ("nothing", "known: digits, images"),
    ],
)
def test_unknown_data_set(name: str, expected: str) -> None:
    message = refusal(config_for(name=name))
    assert message.startswith(f"data.name: {name!r}") and expected in message


STRIPES = """
import numpy as np
from PIL import Image
from experiments.data.registry import Images, Source, register_source

def read(index):
    pixels = np.full((8, 8), 200, np.uint8)
    stripes = pixels if index % 2 else pixels.T
    stripes[::2] = index
    return Image.fromarray(pixels)

@register_source("stripes")
def stripes(data, mode):
    labels = np.arange(60) % 2
    images = Images("stripes", labels, ["down", "across"], lambda i: read(i).convert(mode))
    return Source(images, TEST)
"""


@both_paths
@pytest.mark.parametrize("tested", [None, 10])
def test_a_source_of_ones_own(tmp_path, path: str, tested: int | None) -> None:
    test = f"lambda: Images('more', labels[:{tested}], images.class_names, images.read)"
    file = tmp_path / "stripes.py"
    file.write_text(STRIPES.replace("TEST", test if tested else "None"))
    config = small_config(
        plugins=[str(file)],
        space={**space_values(), "num_classes": 2},
        train={"batch_size": 8},
        data={"name": "stripes", "loading_workers": 0, **PATHS[path]},
    )
    splits = load_splits(config, "cpu", test=True)
    assert splits.class_names == ["down", "across"]
    if tested:
        assert splits.sizes == {"train": 48, "validation": 12, "test": tested}
    else:  # held out
        assert splits.sizes == {"train": 38, "validation": 10, "test": 12}
    assert next(splits.train.epoch(0))[0].shape == (8, 1, 8, 8)
    for batches in (splits.validation, splits.test):
        for images, labels in batches:
            down = (images[:, 0, 0] == images[:, 0, 1]).all(1)  # rows that are all alike
            assert down.tolist() == (labels == 0).tolist()


def test_the_test_split_is_not_opened_unless_asked_for(tmp_path) -> None:
    make_folder(tmp_path / "train", 20)
    (tmp_path / "test.tar").write_bytes(b"not even a tar")
    splits = load_splits(config_for(tmp_path), "cpu")
    assert splits.test is None and "test" not in splits.sizes
    numbers(splits.train.epoch(0), splits)
    assert str(tmp_path / "test.tar") in refusal(config_for(tmp_path), test=True)


def test_versions_of_a_digit_are_never_in_two_splits() -> None:
    space = {**space_values(), "input_size": 12}
    config = small_config(space=space, data={"name": "perturbed_digits", "limit": 4000})
    splits = load_splits(config, "cpu", test=True)
    assert splits.test is not None
    parts = {
        "train": splits.train.indices,
        "first": splits.halves[0].indices,
        "second": splits.halves[1].indices,
    }
    digits = {name: set((indices // VERSIONS).tolist()) for name, indices in parts.items()}
    for name, indices in parts.items():
        assert len(indices) == VERSIONS * len(digits[name])  # all versions, or none
    assert not digits["train"] & digits["first"] and not digits["train"] & digits["second"]
    assert not digits["first"] & digits["second"]
    first, second = splits.halves
    assert len(first.indices) + len(second.indices) == splits.validation.images
    # the test split's images are others too: no pixel for pixel equal one
    seen = {images.numpy().tobytes() for batch, _ in splits.validation for images in batch}
    tested = {images.numpy().tobytes() for batch, _ in splits.test for images in batch}
    assert not seen & tested


def test_perturbed_digits_are_the_same_at_every_reading() -> None:
    first, second = (find_source("perturbed_digits")(Data(), "L").train for _ in range(2))
    assert len(first.labels) == VERSIONS * 1797
    for index in (0, 1, 4001):
        assert np.array_equal(first.read(index), second.read(index))
        assert first.read(index).size == (12, 12)
    versions = [np.asarray(first.read(index)) for index in range(VERSIONS)]
    assert len({version.tobytes() for version in versions}) == VERSIONS
    assert len(set(first.labels[:VERSIONS])) == 1

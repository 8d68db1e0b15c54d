"""Splits and batches. Every test image has one colour: red is its number, green its class."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from spaces import small_config, space_values

from configs import Config, UserError
from experiments.data.memory import augment
from experiments.data.preprocessing import channel_statistics
from experiments.data.splits import Splits, describe, load_splits
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
        sizes = {"train": 64, "validation": 16, "test": 20}
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
        sizes = {"train": 64, "validation": 16, "test": 20}
    splits = load_splits(config_for(root, **data), "cpu", test=True)
    assert splits.sizes == sizes
    assert splits.class_names == list(CLASSES)
    train = numbers(splits.train.epoch(0), splits)
    validation, test = numbers(splits.validation, splits), numbers(splits.test, splits)
    assert sorted(train + validation + test) == list(range(100))
    if form in ("parts", "tars", "timm"):
        assert sorted(test) == list(range(80, 100))
    calibration = numbers(splits.calibration, splits)
    assert len(set(calibration)) == len(calibration) == 16  # 24 wanted, full batches of 16
    assert set(calibration) <= set(train)
    for split, each in ((train, 16), (validation, 4), (test, 5)):
        classes = [
            number // 5 - 16
            if number >= 80 and form not in ("folder", "tar")
            else number // (25 if form in ("folder", "tar") else 20)
            for number in split
        ]
        assert [classes.count(label) for label in range(4)] == [each] * 4  # stratified


@both_paths
def test_splits_are_seeded(tmp_path, path: str) -> None:
    root = make_folder(tmp_path / "all", 25)

    def validation(seed: int) -> list[int]:
        splits = load_splits(config_for(root, seed=seed, **PATHS[path]), "cpu")
        return numbers(splits.validation, splits)

    assert validation(3) == validation(3)
    assert set(validation(3)) != set(validation(4))


def test_memory_and_disk_hold_out_the_same(tmp_path) -> None:
    root = make_folder(tmp_path / "all", 25)
    held = []
    for data in PATHS.values():
        splits = load_splits(config_for(root, **data), "cpu", test=True)
        held.append([numbers(s, splits) for s in (splits.validation, splits.test)])
    assert held[0] == held[1]


def test_digits() -> None:
    splits = load_splits(small_config(train={"batch_size": 64}), "cpu", test=True)
    assert splits.sizes == {"train": 1149, "validation": 288, "test": 360}
    images, labels = next(splits.train.epoch(0))
    assert images.shape == (64, 1, 8, 8) and labels.shape == (64,)
    everything = torch.cat([labels for _, labels in splits.test])
    assert everything.bincount(minlength=10).tolist() == [36, 36, 35, 37, 36, 37, 36, 36, 35, 36]
    assert abs(splits.train.source.normalize(splits.train.source.images).mean()) < 1e-3
    assert "1149 train" in describe(splits, small_config())


@both_paths
def test_limit(tmp_path, path: str) -> None:
    root = make_folder(tmp_path / "all", 25)
    splits = load_splits(config_for(root, limit=40, **PATHS[path]), "cpu", test=True)
    assert splits.sizes == {"train": 32, "validation": 8, "test": 20}
    train = numbers(splits.train.epoch(0), splits)
    assert np.bincount(np.array(train) // 25).tolist() == [8] * 4
    larger = load_splits(config_for(root, limit=1000, **PATHS[path]), "cpu")
    assert larger.sizes["train"] == 64


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
    if path == "disk":
        options["auto_augment"] = "rand-m9-mstd0.5"

    def train(seed: int = 0, **more: Any) -> Any:
        return load_splits(config_for(root, seed=seed, **{**options, **more}), "cpu").train

    batches = train()
    first = list(batches.epoch(1))
    assert len(first) == batches.steps_per_epoch == 6
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
    out = augment(images, np.random.default_rng(0), padding=2, flip=False)
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
    out = augment(images, np.random.default_rng(0), padding=0, flip=True)
    flipped = [torch.equal(a.flip(2), b) for a, b in zip(images, out)]
    assert all(f or torch.equal(a, b) for f, a, b in zip(flipped, images, out))
    assert 70 < sum(flipped) < 130


def test_statistics_are_those_of_the_training_images() -> None:
    images = torch.randint(0, 256, (9, 2, 4, 4), dtype=torch.uint8)
    mean, std = channel_statistics(images)
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
    assert "the image can't be read" in message and str(root / "dog") in message


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


def test_splits_that_are_too_small(tmp_path) -> None:
    root = make_folder(tmp_path / "all", 1)
    assert "data.test_fraction" in refusal(config_for(root))
    make_folder(tmp_path / "train", 2)
    make_folder(tmp_path / "test", 2, first=8)
    assert "data.validation_fraction" in refusal(config_for(tmp_path))
    large = make_folder(tmp_path / "large", 10)
    message = refusal(config_for(large, batch=64))
    assert "batch_size: 64" in message and "25 training images" in message


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

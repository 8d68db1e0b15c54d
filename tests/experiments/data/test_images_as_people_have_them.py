"""Real files with real faults: depths, suffixes, links, copies, additions, bombs and bad tars."""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
import tarfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from spaces import small_config, space_values

from configs import Config, UserError
from experiments.data.decoding import decode_image
from experiments.data.splits import Splits, load_splits, open_images

CLASSES = ("cat", "dog")


def noise(number: int, size: tuple[int, int] = (10, 12)) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)


def make_folder(root: Path, per_class: int = 40, first: int = 0) -> Path:
    for label, name in enumerate(CLASSES):
        (root / name).mkdir(parents=True)
        for index in range(per_class):
            image = Image.fromarray(noise(first + 1000 * label + index))
            image.save(root / name / f"{index:03d}.png")
    return root


def config_for(root: Path, channels: int = 3, **data: Any) -> Config:
    return small_config(
        space={**space_values(), "in_channels": channels, "num_classes": len(CLASSES)},
        train={"batch_size": 4},
        data={"name": "images", "root": str(root), "loading_workers": 0, **data},
    )


def load(root: Path, split: Path | None = None, **data: Any) -> Splits:
    return load_splits(config_for(root, **data), "cpu", test=True, split=split)


def sides(root: Path, **data: Any) -> dict[str, str]:
    """Side of every image, by name."""
    file = root.parent / "sides.json"
    file.unlink(missing_ok=True)
    load(root, file, **data)
    stored = json.loads(file.read_text())
    return {name: side for side, names in stored.items() if side != "of" for name in names}


# 11: what is in the files


@pytest.mark.parametrize("kind", ["png", "tiff", "pgm"])
def test_16_bit_grey_images_are_scaled_by_their_range(tmp_path, kind: str) -> None:
    deep = np.linspace(0, 65535, 400).reshape(20, 20).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / f"a.{kind}")
    for mode in ("L", "RGB"):
        pixels = np.asarray(decode_image(tmp_path / f"a.{kind}", mode))
        assert pixels.mean() / 255 == pytest.approx(0.5, abs=0.01)  # was 0.998
        assert pixels.min() == 0 and pixels.max() == 255


def test_the_mean_of_16_bit_images_from_memory_and_from_disk(tmp_path) -> None:
    for label, name in enumerate(CLASSES):
        (tmp_path / "all" / name).mkdir(parents=True)
        for index in range(20):
            deep = np.random.default_rng((label, index)).integers(0, 65536, (12, 12))
            Image.fromarray(deep.astype(np.uint16)).save(tmp_path / "all" / name / f"{index}.png")
    both = [load(tmp_path / "all", channels=1, memory_limit_mb=mb) for mb in (0, 2048)]
    assert both[0].preprocessing == both[1].preprocessing
    assert both[0].preprocessing.mean[0] == pytest.approx(0.5, abs=0.02)
    for (ours, _), (theirs, _) in zip(both[0].validation, both[1].validation, strict=True):
        assert torch.equal(ours, theirs)


KINDS = ("webp", "WEBP", "bmp", "tif", "TIFF", "gif", "JPG", "Jpeg", "jpg", "PnG")


@pytest.mark.parametrize("form", ["folder", "tar"])
def test_every_suffix_is_read_and_what_is_skipped_is_said_once(
    tmp_path, form: str, capsys, monkeypatch
) -> None:
    root = tmp_path / "all"
    for label, name in enumerate(CLASSES):
        (root / name).mkdir(parents=True)
        for index, kind in enumerate(KINDS):
            image = Image.fromarray(noise(100 * label + index))
            image.save(root / name / f"{index}.{kind}")
        (root / name / "notes.txt").write_text("no image")
    (root / "cat" / "raw.CR2").write_bytes(b"raw")
    if form == "tar":
        with tarfile.open(tmp_path / "all.tar", "w") as tar:
            tar.add(root, arcname=".")
        root = tmp_path / "all.tar"
    divided = open_images(config_for(root).data, 3)
    test = divided.open_test()[0]
    assert len(divided.images.labels) + len(test.labels) == 2 * len(KINDS)
    for index in range(len(divided.images.labels)):
        assert divided.images.read(index).size == (12, 10)
    monkeypatch.chdir(tmp_path)
    for path in (root, root.relative_to(tmp_path), root):
        load(path)
    said = capsys.readouterr().out
    assert said.count("skipped 1 .cr2, 2 .txt") == 1, said


def test_the_first_frame_of_a_gif_is_taken(tmp_path) -> None:
    frames = [Image.new("RGB", (5, 5), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert np.asarray(decode_image(tmp_path / "a.gif", "RGB"))[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("kind", ["png", "tiff", "webp"])
@pytest.mark.parametrize(("orientation", "turn"), [(3, 2), (6, -1), (8, 1)])
def test_exif_orientation_is_applied(tmp_path, kind: str, orientation: int, turn: int) -> None:
    exif = Image.Exif()
    exif[0x112] = orientation
    options = {"lossless": True} if kind == "webp" else {}
    Image.fromarray(noise(0)).save(tmp_path / f"a.{kind}", exif=exif, **options)
    seen = np.asarray(decode_image(tmp_path / f"a.{kind}", "RGB"))
    assert np.array_equal(seen, np.rot90(noise(0), turn))


@pytest.mark.parametrize(("kind", "mode"), [("png", "RGBA"), ("webp", "RGBA"), ("png", "LA")])
def test_what_is_transparent_is_composed_on_white(tmp_path, kind: str, mode: str) -> None:
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).convert(mode).save(tmp_path / f"a.{kind}")
    for seen in ("L", "RGB"):
        assert (np.asarray(decode_image(tmp_path / f"a.{kind}", seen)) == 255).all()


def test_a_transparent_colour_of_a_palette_is_white(tmp_path) -> None:
    Image.new("P", (4, 4)).save(tmp_path / "a.gif", transparency=0)
    assert (np.asarray(decode_image(tmp_path / "a.gif", "RGB")) == 255).all()


# 12: each file once, copies on one side


def test_links_to_folders_end_and_give_each_file_once(tmp_path) -> None:
    root = make_folder(tmp_path / "photos" / "all", 30)
    make_folder(tmp_path / "photos" / "other", 30, first=500)
    before = sides(root)
    (root / "up").symlink_to("..")
    (root / "cat" / "loop").symlink_to("..")
    (root / "dog" / "self").symlink_to(".")
    (root / "dog" / "linked.png").symlink_to("001.png")
    os.link(root / "cat" / "002.png", root / "dog" / "hard.png")
    (root / "dog" / "gone.png").symlink_to("nothing.png")
    splits = load(root)
    assert sum(splits.sizes.values()) == 60
    after = sides(root)
    assert {name: after[name] for name in after if name in before} == after
    assert set(before) - set(after) <= {"dog/001.png", "cat/002.png"}


def test_a_class_folder_that_is_a_link_is_read(tmp_path) -> None:
    elsewhere = make_folder(tmp_path / "elsewhere")
    root = tmp_path / "all"
    root.mkdir()
    for name in CLASSES:
        (root / name).symlink_to(elsewhere / name)
    splits = load(root)
    assert sum(splits.sizes.values()) == 80 and splits.class_names == list(CLASSES)


@pytest.mark.parametrize("form", ["folder", "tar"])
def test_copies_are_said_and_on_one_side(tmp_path, form: str) -> None:
    root = make_folder(tmp_path / "all")
    for index in range(15):
        shutil.copy(root / "cat" / f"{index:03d}.png", root / "cat" / f"copy-of-{index:03d}.png")
    shutil.copy(root / "cat" / "020.png", root / "dog" / "zebra.png")
    if form == "tar":
        with tarfile.open(tmp_path / "all.tar", "w") as tar:
            tar.add(root, arcname=".")
        root = tmp_path / "all.tar"
    side = {name: s.split(",")[0] for name, s in sides(root).items()}
    full = sides(root)
    for index in range(15):
        assert full[f"cat/{index:03d}.png"] == full[f"cat/copy-of-{index:03d}.png"]
    assert full["cat/020.png"] == full["dog/zebra.png"]
    assert len(set(side.values())) == 3
    notes = " ".join(open_images(config_for(root).data, 3).notes)
    assert "16 images are copies" in notes
    assert "1 images are in several classes" in notes and "dog/zebra.png" in notes


def test_copies_of_training_images_are_not_tested(tmp_path, capsys) -> None:
    make_folder(tmp_path / "train")
    make_folder(tmp_path / "test", 10, first=500)
    shutil.copy(tmp_path / "train" / "cat" / "003.png", tmp_path / "test" / "cat" / "x.png")
    assert load(tmp_path).sizes["test"] == 20
    assert "1 images are copies of training or validation" in capsys.readouterr().out


# 13: a split depends on the file


@pytest.mark.parametrize("limit", [0, 50])
def test_an_added_image_moves_no_other(tmp_path, limit: int) -> None:
    root = make_folder(tmp_path / "all", 60)
    before = sides(root, limit=limit)
    for number in range(25):
        Image.fromarray(noise(7000 + number)).save(root / "cat" / f"{number:03d}-new.png")
    after = sides(root, limit=limit)
    moved = {name: (side, after[name]) for name, side in before.items() if after[name] != side}
    if limit:  # some make room, none goes from one side to another
        assert all("unused" in pair for pair in moved.values())
    else:
        assert not moved


def test_a_folder_and_its_tar_are_split_alike_wherever_they_are(tmp_path) -> None:
    root = make_folder(tmp_path / "one" / "all")
    (tmp_path / "two").mkdir()
    with tarfile.open(tmp_path / "two" / "all.tar", "w") as tar:
        tar.add(root, arcname=".")
    assert sides(root) == sides(tmp_path / "two" / "all.tar")


def test_fractions_are_about_right_and_every_class_is_on_each_side(tmp_path) -> None:
    side = list(sides(make_folder(tmp_path / "all", 300)).values())
    assert side.count("test") / 600 == pytest.approx(0.2, abs=0.05)
    few = sides(make_folder(tmp_path / "b" / "few", 6))
    small = [{name[:3] for name in few if few[name] == side} for side in ("train", "test")]
    assert all(classes == set(CLASSES) for classes in small)


def test_a_work_directory_keeps_its_split_and_says_what_changed(tmp_path, capsys) -> None:
    root, file = make_folder(tmp_path / "all"), tmp_path / "run" / "split.json"
    first = load(root, file)
    batches = list(first.train.epoch(0))
    capsys.readouterr()
    Image.fromarray(noise(9000)).save(root / "dog" / "000-new.png")
    again = load(root, file)
    said = capsys.readouterr().out
    assert "1 image was added" in said and "dog/000-new.png" in said
    assert again.sizes == first.sizes
    for (ours, _), (theirs, _) in zip(batches, again.train.epoch(0), strict=True):
        assert torch.equal(ours, theirs)  # to the bit, as if it were not there
    lost = json.loads(file.read_text())["test"][0]
    (root / lost).unlink()
    assert load(root, file).sizes["test"] == first.sizes["test"] - 1
    said = capsys.readouterr().out
    assert "1 image is missing" in said and lost in said and "1 of test" in said


def test_a_damaged_split_is_made_anew(tmp_path) -> None:
    root, file = make_folder(tmp_path / "all"), tmp_path / "split.json"
    load(root, file)
    content = file.read_bytes()
    for damage in (b"", b"garbage", content[:100]):
        file.write_bytes(damage)
        load(root, file)
        assert file.read_bytes() == content


# 14: one line with a name


def bomb(width: int, height: int) -> bytes:
    """A PNG that claims a size."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + crc

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b"")


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    "content", [bomb(50_000, 50_000), bomb(1, 90_000), bomb(20, 20), b"no image", b""]
)
def test_a_corrupt_or_gigantic_image_is_one_line_with_its_name(
    tmp_path, content: bytes, workers: int
) -> None:
    root = make_folder(tmp_path / "all", 10)
    for number, file in enumerate(sorted((root / "dog").iterdir())):
        file.write_bytes(content + bytes(number))
    with pytest.raises(UserError) as caught:
        splits = load(root, loading_workers=workers, memory_limit_mb=0)
        list(splits.train.epoch(0))
    message = str(caught.value)
    assert message.startswith(str(root / "dog")) and "the image can't be read" in message
    assert "\n" not in message and "Traceback" not in message


@pytest.mark.parametrize(
    "name", ["../evil/1.png", "cat/../../x/1.png", "/etc/evil/1.png", "..\\evil\\1.png"]
)
def test_tar_members_that_lead_elsewhere_are_refused(tmp_path, name: str) -> None:
    root = make_folder(tmp_path / "all", 5)
    buffer = io.BytesIO()
    Image.fromarray(noise(1)).save(buffer, "png")
    with tarfile.open(tmp_path / "all.tar", "w") as tar:
        tar.add(root, arcname=".")
        member = tarfile.TarInfo(name)
        member.size = buffer.tell()
        buffer.seek(0)
        tar.addfile(member, buffer)
    with pytest.raises(UserError, match="is refused") as caught:
        load(tmp_path / "all.tar")
    assert repr(name) in str(caught.value) and str(tmp_path / "all.tar") in str(caught.value)
    assert "\n" not in str(caught.value)

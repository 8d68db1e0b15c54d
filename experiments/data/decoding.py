"""How a file becomes an image: the one place, for training, evaluation and shipping."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

LONGEST = 200  # times as long as wide: resized to 224 pixels, such an image has ten million


def decode_image(file: Any, mode: str) -> Any:
    """Return the image that a file shows, in a colour mode of PIL.

    See `in_mode`. Of several frames, the first is taken.

    Args:
        file: A path or a file that is open for reading bytes.
        mode: ``L`` or ``RGB``.

    Raises:
        ValueError: The file is damaged, of an unknown kind or too large; the message says which, in
            one line. Too large is what Pillow refuses (`PIL.Image.MAX_IMAGE_PIXELS`, twice), and
            what is `LONGEST` times as long as wide.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's name no file; what matters is raised
            image = Image.open(file)
            if max(image.size) > LONGEST * min(image.size):
                width, height = image.size
                raise ValueError(f"{width}x{height}: over {LONGEST} times as long as wide")
            return in_mode(image, mode)
    except UnidentifiedImageError:
        raise ValueError("it is no image, or of an unknown kind") from None
    except Exception as error:  # whatever a decoder raises on what is damaged
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(reason) from None


def in_mode(image: Any, mode: str) -> Any:
    """Return a PIL image as it is meant to be seen, in mode ``L`` or ``RGB``.

    It is turned as EXIF says, what is transparent lies on white, and 16 bits become 8 by the range
    of 16 bits (65,535 is white), whatever part of it an image uses.

    Raises:
        ValueError: The pixels are of 32 bits, of which nobody knows what is white.
    """
    from PIL import Image, ImageOps

    ImageOps.exif_transpose(image, in_place=True)
    if image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM")):
        raise ValueError("pixels of 32 bits have no range; store 8 or 16 bits")
    if image.mode.startswith("I"):
        deep = np.asarray(image).astype(np.uint32)
        seen = Image.fromarray(((deep + 128) // 257).astype(np.uint8))
        if "transparency" in image.info:  # one value is transparent
            seen = Image.composite(
                Image.new("L", seen.size, 255),
                seen,
                Image.fromarray(deep == image.info["transparency"]),
            )
        return seen.convert(mode)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)

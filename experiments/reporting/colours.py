"""One colour per candidate, the same in every picture, page and table.

An operator family has a hue from Okabe and Ito's palette, which people with any kind of colour
vision tell apart; a larger kernel is darker. Pictures also write the names, so that
colour is never the only sign.
"""

from __future__ import annotations

import re
import zlib

from search_space import ChoiceSpace, SearchSpace

Colour = tuple[int, int, int]

HUES: dict[str, Colour] = {
    "convolution": (0x00, 0x72, 0xB2),  # blue
    "depthwise": (0x56, 0xB4, 0xE9),  # sky blue
    "involution": (0xD5, 0x5E, 0x00),  # vermillion
    "selective_kernel": (0xCC, 0x79, 0xA7),  # purple
    "dynamic": (0x00, 0x9E, 0x73),  # green
    "ghost": (0xF0, 0xCF, 0x30),  # yellow
    "skip": (0xD4, 0xD4, 0xD4),
}
SHORT = {"conv": "convolution", "dw": "depthwise", "inv": "involution", "dyn": "dynamic",
         "sk": "selective_kernel"}  # fmt: skip
OTHERS: tuple[Colour, ...] = (  # Paul Tol's muted scheme, for operators of one's own
    (0x88, 0x22, 0x55),
    (0x44, 0xAA, 0x99),
    (0x99, 0x99, 0x33),
    (0x33, 0x22, 0x88),
    (0x66, 0x11, 0x00),
)


def colours_of(space: ChoiceSpace) -> dict[str, str]:
    """Return candidate name -> ``#rrggbb``, in the order in which the layers name them first."""
    colours: dict[str, str] = {}
    for name in dict.fromkeys(name for layer in space.layers for name in layer.candidates):
        colour = _shade(*_family_and_kernel(name, space))
        while (text := "#{:02x}{:02x}{:02x}".format(*colour)) in colours.values():
            colour = _mix(colour, (255, 255, 255), 0.3)  # two candidates of one family and kernel
            if min(colour) > 245:
                break
        colours[name] = text
    return colours


def ink_on(colour: str) -> str:
    """Return black or white, whichever has the higher contrast on ``colour`` (WCAG 2 luminance)."""
    red, green, blue = ((int(colour[i : i + 2], 16) / 255) ** 2.2 for i in (1, 3, 5))
    return "#000000" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179 else "#ffffff"


def _family_and_kernel(name: str, space: ChoiceSpace) -> tuple[str, int | None]:
    """Return both from the configuration, else from the name: ``inv7`` is involution, 7."""
    if isinstance(space, SearchSpace):
        options = space.config.candidates.get(name, {})
        kernel = options.get("kernel_size")
        return str(options.get("operator", name)), kernel if isinstance(kernel, int) else None
    match = re.fullmatch(r"(.*?)_?(\d*)", name)
    assert match is not None  # both parts may be empty
    letters, digits = match.groups()
    return SHORT.get(letters, letters), int(digits) if digits else None


def _shade(family: str, kernel: int | None) -> Colour:
    hue = HUES.get(family) or OTHERS[zlib.crc32(family.encode()) % len(OTHERS)]
    if kernel is None or kernel == 5:
        return hue
    return _mix(hue, (255, 255, 255), 0.3) if kernel < 5 else _mix(hue, (0, 0, 0), 0.3)


def _mix(colour: Colour, other: Colour, share: float) -> Colour:
    red, green, blue = (round(a + share * (b - a)) for a, b in zip(colour, other))
    return red, green, blue

"""Converts pictures of any format to 8-bit RGB, and to arrays of one shape."""

from typing import Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image

FitName = Literal["crop", "whole"]
# Of the names of image files.
ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".webp")


def as_rgb(picture: Image.Image) -> Image.Image:
    """A picture in Pillow's mode ``RGB``.

    Scales 16 bits to 8. Pillow's own conversion clips at 255, so that a grey 16-bit PNG turns
    white.

    Raises:
      ValueError: If the values are 32-bit integers or floats, whose range is not known.
    """
    if picture.mode in ("I", "F"):
        raise ValueError(
            f"pixels must be of 8 or 16 bits; got mode {picture.mode!r}, 32 bits of unknown range"
        )
    if picture.mode.startswith("I;16"):
        wide = np.asarray(picture, np.float32)
        picture = Image.fromarray(np.round(wide / 257).astype(np.uint8))
    return picture.convert("RGB")


def as_array(
    picture: Image.Image, shape: tuple[int, int, int], *, fit: FitName = "crop"
) -> UInt8[np.ndarray, "height width channels"]:
    """A picture as an array of this shape, resized with antialiasing.

    Args:
      picture: Of any size and mode.
      shape: Height, width and channels, one (grey) or three (RGB).
      fit: ``crop`` keeps the largest part in the middle with the proportions of ``shape``;
        ``whole`` squeezes or stretches the whole picture.

    Raises:
      ValueError: If the picture has 32 bits a channel, or ``shape`` another number of channels.
    """
    height, width, channels = shape
    if channels not in (1, 3):
        raise ValueError(
            f"pictures have 1 channel, grey, or 3, red, green and blue; got shape {shape} with "
            f"{channels}. Give arrays instead."
        )
    scale = min(picture.width / width, picture.height / height)
    size = picture.size if fit == "whole" else (scale * width, scale * height)
    left, top = ((whole - part) / 2 for whole, part in zip(picture.size, size, strict=True))
    resized = as_rgb(picture).resize(
        (width, height), Image.Resampling.BILINEAR, box=(left, top, left + size[0], top + size[1])
    )
    array = np.asarray(resized.convert("L") if channels == 1 else resized)
    return array.reshape(shape)

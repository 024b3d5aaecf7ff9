"""Converts pictures of any format to 8-bit RGB."""

import numpy as np
from PIL import Image


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

"""Pictures as red, green and blue of 8 bits, whatever they were stored as."""

import numpy as np
from PIL import Image


def as_rgb(picture: Image.Image) -> Image.Image:
    """A picture in Pillow's mode ``RGB``.

    Sixteen bits are scaled, as Pillow's own conversion does not: it clips them at 255, so a grey
    PNG of 16 bits comes out white.

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

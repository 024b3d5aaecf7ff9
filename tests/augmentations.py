"""Every augmentation of images, keys, and draws from them."""

import jax

import stn_jax as stn
from stn_jax import augmentation as aug

SHAPE = (48, 64)
KEY = jax.random.key(0)


def keys(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


def draws(augmentation, keys):
    """A theta for each key."""
    return jax.jit(jax.vmap(augmentation.draw))(keys)


def members(shape=SHAPE):
    """Every augmentation of images, with draws that move a centred blob visibly."""
    height, width = shape
    return {
        "affine": aug.random_affine(
            shape, angle=(-0.6, 0.6), scale=(0.8, 1.25), shear=(-0.2, 0.2), translation=(-4, 4)
        ),
        "homography": aug.random_homography(shape, amplitude=6.0),
        "elastic": aug.random_elastic(shape, amplitude=3.0, spacing=16),
        "crop": aug.random_crop(shape, (height - 8, width - 6)),
        "crop with a margin": aug.random_crop(shape, shape, margin=4),
        "resized crop": aug.random_resized_crop(shape, (40, 40), area=(0.8, 0.95)),
        "flip": aug.random_flip(shape, axes=(0, 1)),
        "jitter": aug.jitter(stn.thin_plate_spline((3, 3)), shape, spread=0.06),
        "sometimes": aug.sometimes(aug.random_homography(shape, amplitude=6.0)),
        "compose": aug.compose(
            aug.random_affine(shape, angle=(-0.3, 0.3), translation=(-3, 3)),
            aug.random_elastic(shape, amplitude=2.5, spacing=16),
            aug.random_flip(shape),
            aug.random_crop(shape, (44, 52)),
        ),
    }


NAMES = list(members())
STILL = {
    "affine": aug.random_affine(SHAPE),
    "homography": aug.random_homography(SHAPE, amplitude=0.0),
    "elastic": aug.random_elastic(SHAPE, amplitude=0, spacing=16),
    "crop": aug.random_crop(SHAPE, SHAPE),
    "resized crop": aug.random_resized_crop(SHAPE, SHAPE, area=(1, 1)),
    "flip": aug.random_flip(SHAPE, probability=0),
    "jitter": aug.jitter(stn.thin_plate_spline((3, 3)), SHAPE, spread=0.0),
    "sometimes": aug.sometimes(aug.random_affine(SHAPE, angle=(1, 2)), probability=0),
    "affine in 3-D": aug.random_affine((6, 8, 10)),
    "elastic in 3-D": aug.random_elastic((6, 8, 10), amplitude=0, spacing=4),
}
STILL["compose"] = aug.compose([STILL[n] for n in ("affine", "homography", "elastic", "crop")])

"""What a call of another library is here: the table of the page on conventions, run by the tests.

Both sides are source text. They are run with an ``image`` ``[H, W, 3]`` in float32, its batch of
one ``images``, and PyTorch's form of it ``x``, ``[1, 3, H, W]``; with the output's shape
``(h, w)``; and with what a row is about: ``theta`` ``[1, 2, 3]``, ``m`` ``[2, 3]`` and
``homography`` ``[3, 3]`` between pixels, ``map_x`` and ``map_y`` ``[h, w]``, ``grid``
``[1, h, w, 2]``, a ``box`` ``(x0, y0, x1, y1)`` in pixels from the outer edges on and one as a
``share`` of the distance between the outer centres, ``points`` and where they have ``moved``,
``[4, 2]``.
"""

from typing import NamedTuple


class Translation(NamedTuple):
    """A call of another library, and what gives the same here."""

    library: str
    theirs: str
    ours: str


TRANSLATIONS = (
    Translation(
        "PyTorch",
        "F.affine_grid(theta, (1, 3, h, w), align_corners=False)",
        "jax.vmap(lambda matrix: stn.affine_grid(matrix, (h, w)))(theta)",
    ),
    Translation(
        "PyTorch",
        "F.grid_sample(x, grid, align_corners=False)",
        "jax.vmap(stn.grid_sample)(images, grid)",
    ),
    Translation(
        "PyTorch",
        'F.grid_sample(x, grid, mode="bicubic", padding_mode="border", align_corners=True)',
        "jax.vmap(lambda image, grid: stn.grid_sample(image, grid, kernel=stn.cubic(a=-0.75), "
        'padding="border", align_corners=True))(images, grid)',
    ),
    Translation(
        "PyTorch",
        'F.grid_sample(x, grid, mode="nearest", padding_mode="reflection", align_corners=False)',
        'jax.vmap(lambda image, grid: stn.grid_sample(image, grid, kernel="nearest", '
        'padding="reflection"))(images, grid)',
    ),
    Translation(
        "PyTorch",
        'F.interpolate(x, (h, w), mode="bilinear", align_corners=False)',
        "jax.vmap(lambda image: stn.warp(image, stn.translation(), jnp.zeros(2), "
        'output_shape=(h, w), padding="border"))(images)',
    ),
    Translation(
        "torchvision",
        "ops.roi_align(x, [box[None]], (h, w), sampling_ratio=2, aligned=True)",
        "stn.warp(image, stn.affine(), geometry.crop_matrix(2 * box / jnp.array([W, H, W, H]) - 1)"
        '.ravel(), output_shape=(2 * h, 2 * w), padding="border").reshape(h, 2, w, 2, 3)'
        ".mean((1, 3))",
    ),
    Translation(
        "TensorFlow",
        "tf.image.crop_and_resize(images, share[None, [1, 0, 3, 2]], [0], (h, w))",
        "stn.warp(image, stn.affine(), geometry.crop_matrix(2 * share - 1).ravel(), "
        "output_shape=(h, w), align_corners=True)",
    ),
    Translation(
        "OpenCV",
        "cv2.getRotationMatrix2D((W / 2, H / 2), 30, 0.8)",
        "geometry.affine_matrix(angle=-jnp.deg2rad(30), scale=0.8, "
        "center=jnp.array([W / 2, H / 2]))",
    ),
    Translation(
        "OpenCV",
        "cv2.warpAffine(image, m, (w, h))",
        "stn.warp(image, stn.affine(), conversions.from_opencv(m, (H, W), (h, w), "
        "inverse_map=False).ravel(), output_shape=(h, w))",
    ),
    Translation(
        "OpenCV",
        "cv2.warpAffine(image, m, (w, h), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, "
        "borderMode=cv2.BORDER_REFLECT)",
        "stn.warp(image, stn.affine(), conversions.from_opencv(m, (H, W), (h, w)).ravel(), "
        'output_shape=(h, w), padding="reflection")',
    ),
    Translation(
        "OpenCV",
        "cv2.warpPerspective(image, homography, (w, h))",
        "stn.warp(image, stn.projective(), conversions.projective_theta(conversions.from_opencv("
        "homography, (H, W), (h, w), inverse_map=False)), output_shape=(h, w))",
    ),
    Translation(
        "OpenCV",
        "cv2.remap(image, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)",
        'stn.sample_pixels(image, jnp.stack([map_x, map_y], axis=-1), padding="wrap")',
    ),
    Translation(
        "OpenCV",
        "cv2.resize(image, (w, h), interpolation=cv2.INTER_LINEAR)",
        'stn.warp(image, stn.translation(), jnp.zeros(2), output_shape=(h, w), padding="border")',
    ),
    Translation(
        "Kornia",
        "K.warp_affine(x, torch.tensor(m[None]), (h, w))",
        "stn.warp(image, stn.affine(), conversions.from_opencv(m, (H, W), (h, w), "
        "inverse_map=False).ravel(), output_shape=(h, w))",
    ),
    Translation(
        "Kornia",
        "K.warp_perspective(x, torch.tensor(homography[None]), (h, w))",
        "stn.warp(image, stn.projective(), conversions.projective_theta(conversions.from_opencv("
        "homography, (H, W), (h, w), inverse_map=False)), output_shape=(h, w))",
    ),
    Translation(
        "scikit-image",
        'transform.warp(image, homography, output_shape=(h, w), mode="edge")',
        "stn.warp(image, stn.projective(), conversions.projective_theta("
        "conversions.matrix_from_pixels(homography, (H, W), (h, w))), output_shape=(h, w), "
        'padding="border")',
    ),
    Translation(
        "scikit-image",
        'transform.rotate(image, 30, mode="edge")',
        "stn.warp(image, stn.isotropic(stn.rigid(), aspect=W / H), "
        'jnp.array([jnp.deg2rad(30), 0, 0]), padding="border")',
    ),
    Translation(
        "scikit-image",
        'transform.estimate_transform("similarity", points, moved).params[:2]',
        "estimation.similarity(points, moved)",
    ),
    Translation(
        "SciPy",
        'ndimage.map_coordinates(image[..., 0], [map_y, map_x], order=1, mode="nearest")',
        "stn.sample_pixels(image[..., :1], jnp.stack([map_x, map_y], axis=-1), "
        'padding="border")[..., 0]',
    ),
)

# What each library imports; but OpenCV and SciPy they are not installed everywhere.
IMPORTS = {
    "PyTorch": "import torch\nimport torch.nn.functional as F",
    "torchvision": "import torch\nfrom torchvision import ops",
    "TensorFlow": "import tensorflow as tf",
    "OpenCV": "import cv2",
    "Kornia": "import torch\nimport kornia.geometry.transform as K",
    "scikit-image": "from skimage import transform",
    "SciPy": "from scipy import ndimage",
}


def table() -> str:
    """The translations as Markdown, a table for each library."""
    parts = []
    for library in dict.fromkeys(row.library for row in TRANSLATIONS):
        lines = [f"**{library}**", "", "| there | here |", "|---|---|"]
        lines += [
            f"| `{_escaped(row.theirs)}` | `{_escaped(row.ours)}` |"
            for row in TRANSLATIONS
            if row.library == library
        ]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _escaped(code: str) -> str:
    """Code for a cell of a table, in which a bar would end it."""
    return code.replace("|", "\\|")

"""In every row of the table of translations both calls give the same result."""

import importlib.util

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import stn_jax as stn
from docs import translations
from docs.translated_calls import IMPORTS, TRANSLATIONS
from stn_jax import conversions, estimation, fields, geometry

H, W, h, w = 9, 8, 6, 7
PACKAGES = {
    "PyTorch": "torch",
    "torchvision": "torchvision",
    "TensorFlow": "tensorflow",
    "Kornia": "kornia",
    "scikit-image": "skimage",
    "Keras": "keras",
    "ONNX Runtime": "onnxruntime",
    "SimpleITK": "SimpleITK",
    "MONAI": "monai",
    "torch-interpol": "interpol",
    "VoxelMorph": "voxelmorph",
    "NiTransforms": "nitransforms",
}


def operands():
    """The variables of the table's texts; the matrices keep most of the output inside."""
    rng = np.random.default_rng(0)
    image = rng.uniform(size=(H, W, 3)).astype(np.float32)
    m = np.array([[0.9, 0.3, 0.4], [-0.2, 0.8, 1.3]], np.float32)
    homography = np.vstack([m, [0.02, 0.01, 1.0]]).astype(np.float32)
    map_x, map_y = (rng.uniform(-1.5, size, (h, w)).astype(np.float32) for size in (W, H))
    # Off the halves, at which nearest neighbours are rounded one way or the other.
    grid = rng.uniform(-1.1, 1.1, (1, h, w, 2)).astype(np.float32)
    theta = np.array([[[0.8, 0.2, 0.1], [-0.3, 0.9, -0.2]]], np.float32)
    box, share = np.float32([1.2, 0.7, 6.9, 7.6]), np.float32([0.1, 0.2, 0.8, 0.95])
    points, moved = rng.uniform(0, 8, (2, 4, 2)).astype(np.float32)
    # Four corners of the input, row by row, and their places in the output.
    corners = np.array([[0, 0], [W - 1, 0], [0, H - 1], [W - 1, H - 1]], np.float32)
    dragged = np.array([[0.5, 0.2], [W - 1, 1], [0, H - 2], [W - 2, H - 1.5]], np.float32)
    voxels = rng.normal(size=(2, H, W)).astype(np.float32)
    places, solid = (rng.uniform(0, 8, (5, ndim)).astype(np.float32) for ndim in (2, 3))
    turn, shift = np.eye(4, dtype=np.float32), np.eye(4, dtype=np.float32)
    spacing, origin, direction = (0.8, 1.2), (0.3, -0.4), (0.8, -0.6, 0.6, 0.8)
    world = conversions.world_from_itk(spacing, origin, direction)
    turn[:2, :2], shift[:3, 3] = [[0.6, -0.8], [0.8, 0.6]], [1.0, -2.0, 0.5]
    local = dict(locals())
    del local["rng"]
    return local | {"images": image[None], "H": H, "W": W, "h": h, "w": w}


def run_theirs(row, names):
    names |= {"np": np}
    try:
        exec(IMPORTS[row.library], names)
    except (ImportError, RuntimeError) as error:  # torchvision may be built for another PyTorch.
        pytest.skip(f"{row.library} cannot be imported: {error}")
    if "torch" not in names:
        found = np.asarray(eval(row.theirs, names))
        return np.moveaxis(found, 1, -1) if row.library == "ONNX Runtime" else found
    torch = names["torch"]
    names["x"] = torch.tensor(np.moveaxis(names["images"], -1, 1).copy())
    names |= {name: torch.tensor(names[name]) for name in ("theta", "grid", "box", "voxels")}
    found = eval(row.theirs, names)
    return found if "affine_grid" in row.theirs else np.moveaxis(np.asarray(found), 1, -1)


# The other libraries' own warnings: of what they import at the first call, and of what they take.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("row", TRANSLATIONS, ids=lambda row: row.library.lower().replace("-", "_"))
def test_call(row):
    package = PACKAGES.get(row.library)
    if package and importlib.util.find_spec(package) is None:
        pytest.skip(f"{row.library} is not installed")
    modules = {"jax": jax, "jnp": jnp, "np": np, "cv2": cv2, "stn": stn}
    modules |= {"estimation": estimation, "fields": fields, "geometry": geometry}
    modules |= {"conversions": conversions, "zero_outside": translations.zero_outside}
    ours = np.asarray(eval(row.ours, operands() | modules))
    theirs = run_theirs(row, operands())
    assert ours.std() > 0.05
    np.testing.assert_allclose(ours, theirs.reshape(ours.shape), atol=3e-4)


def test_table_holds_every_row():
    lines = [line for line in translations.table().splitlines() if line.startswith("| `")]
    assert len(lines) == len(TRANSLATIONS)
    assert all(line.replace("\\|", "").count("|") == 3 for line in lines)
    for row in TRANSLATIONS:
        assert f"**{row.library}**" in translations.table()

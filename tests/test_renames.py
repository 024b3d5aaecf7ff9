"""Old names and arguments still work, and warn with the new ones."""

import inspect

import jax.numpy as jnp
import numpy as np
import pytest

import stn_jax as stn
from stn_jax import nn as stnn

THETA = jnp.array([1.0, 0.2, 0.0, -0.1, 0.9, 0.1])
MATRIX = np.array([[1.0, 0.2, 3.0], [0.0, 1.1, -2.0]])
POINTS, BOX = jnp.array([[1.0, 2.0]]), jnp.array([0.0, 0.0, 3.0, 2.0])
# The function, its operands, the old argument and the new one.
ARGUMENTS = [
    (stn.warp_points, (POINTS, stn.affine(), THETA), "shape", "image_shape"),
    (stn.warp_boxes, (BOX, stn.affine(), THETA), "shape", "image_shape"),
    (stn.conversions.pixel_matrix, (MATRIX,), "shape", "image_shape"),
    (stn.conversions.matrix_from_pixels, (MATRIX,), "shape", "image_shape"),
    (stn.conversions.change_alignment, (MATRIX,), "shape", "image_shape"),
    (stn.conversions.to_opencv, (MATRIX,), "shape", "image_shape"),
    (stn.conversions.from_opencv, (MATRIX,), "shape", "image_shape"),
    (stn.diagnostics.fold_fraction, (stn.affine(), THETA), "shape", "output_shape"),
    (stn.diagnostics.distance_from_identity, (stn.affine(), THETA), "shape", "output_shape"),
    (stnn.identity_penalty, (stn.affine(), THETA), "shape", "output_shape"),
]


@pytest.mark.parametrize(
    ("function", "operands", "old", "new"),
    ARGUMENTS,
    ids=lambda each: getattr(each, "__name__", ""),
)
def test_old_argument(function, operands, old, new):
    parameters = inspect.signature(function).parameters
    assert old not in parameters
    options = {"output_shape": (5, 6)} if "output_shape" in parameters and new != old else {}
    options |= {"align_corners": False, "to_align_corners": True}
    options = {name: each for name, each in options.items() if name in parameters and name != new}
    expected = function(*operands, **options, **{new: (5, 6)})
    with pytest.warns(DeprecationWarning, match=f"{old} of {function.__name__} is now {new}"):
        found = function(*operands, **options, **{old: (5, 6)})
    np.testing.assert_array_equal(found, expected)
    with pytest.raises(TypeError, match="got both"):
        function(*operands, **options, **{old: (5, 6), new: (5, 6)})


def test_old_names():
    for module, old, new in ((stn, "inverse", "inverted"), (stnn, "identity", "exact_identity")):
        assert old not in module.__all__
        name = module.__name__
        with pytest.warns(DeprecationWarning, match=f"{name}.{old} is now {name}.{new};"):
            assert getattr(module, old) is getattr(module, new)


def test_a_spatial_transformer_takes_the_number_of_its_networks_head():
    from flax import nnx

    t = stn.attention()
    for head in (stnn.RegressionHead, stnn.GaussianHead):
        network = stnn.FullyConnectedLocalization(
            (6, 6, 1), t, num_transforms=3, head=head, rngs=nnx.Rngs(0)
        )
        transformer = stnn.SpatialTransformer(network, t)
        assert transformer.num_transforms == 3
    assert transformer(jnp.ones((2, 6, 6, 1))).shape == (2, 3, 6, 6, 1)
    assert stnn.SpatialTransformer(lambda images: images, t).num_transforms == 1

"""Heads and where they start."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from flax import nnx
from scipy import integrate, stats

import stn_jax as stn
from stn_jax import nn as stnn

pytestmark = pytest.mark.cross_section(3)

IN_SHAPE = (8, 8, 1)
LOCALIZATIONS = {
    "fully connected": lambda t, **o: stnn.FullyConnectedLocalization(IN_SHAPE, t, **o),
    "convolutional": lambda t, **o: stnn.ConvolutionalLocalization(
        IN_SHAPE, t, features=(4,), kernel_size=3, **o
    ),
    "features": lambda t, **o: stnn.FeatureLocalization(
        nnx.Conv(1, 3, (3, 3), strides=2, rngs=nnx.Rngs(7)), 4 * 4 * 3, t, hidden=(5,), **o
    ),
}
every_localization = pytest.mark.parametrize("localization", LOCALIZATIONS)


def start(initial_theta, t, num_transforms=1, seed=0):
    """What an untrained head gives, whatever its features."""
    head = stnn.RegressionHead(
        3, t, num_transforms=num_transforms, initial_theta=initial_theta, rngs=nnx.Rngs(seed)
    )
    theta = np.asarray(head(jnp.array([[1.0, -2.0, 3.0]])))[0]
    return theta.reshape(num_transforms, -1)


# name: the family, the theta of the 3×3 or 4×4 matrix's oracle from its own
CROPPED = {
    "affine": (stn.affine(), "affine", lambda theta: theta),
    "affine 3-D": (stn.affine(ndim=3), "affine", lambda theta: theta),
    "attention": (stn.attention(), "attention", lambda theta: theta),
    "similarity": (stn.similarity(), "similarity", lambda theta: theta),
    "translation": (stn.translation(), "translation", lambda theta: theta),
    "projective": (stn.projective(), "projective", lambda theta: theta),
    "bounded": (
        stn.bounded(stn.affine(), radius=0.9),
        "affine",
        lambda theta: np.eye(2, 3).ravel() + 0.9 * np.tanh((theta - np.eye(2, 3).ravel()) / 0.9),
    ),
    "fixed": (
        stn.fixed(stn.attention(), {0: 0.5}),
        "attention",
        lambda theta: np.append(0.5, theta),
    ),
}


# Two squares of half the size do not cover; see the next test.
@pytest.mark.parametrize(
    ("name", "number"), [*((n, 2) for n in CROPPED if n != "fixed"), *((n, 4) for n in CROPPED)]
)
def test_tiled_crops_cover_the_image(name, number):
    """Every point of the image lies in some crop, and the crops have different centres."""
    t, oracle, own = CROPPED[name]
    thetas = start(stnn.tiled(), t, number)
    matrices = [reference.matrix(oracle, own(theta.astype(float)), t.ndim) for theta in thetas]
    points = reference.regular_grid(t.ndim * (9,), False)
    inside = [
        np.all(np.abs(reference.act(np.linalg.inv(m), points)) < 1 + 1e-5, axis=-1)
        for m in matrices
    ]
    assert np.any(inside, axis=0).all()
    centres = [reference.act(m, np.zeros(t.ndim)) for m in matrices]
    tiles = {2: [1] * (t.ndim - 1) + [2], 4: [1] * (t.ndim - 2) + [2, 2]}[number]
    expected = [
        [reference.regular_axis(tiles[axis], False)[i[axis]] for axis in reversed(range(t.ndim))]
        for i in np.ndindex(*tiles)
    ]
    np.testing.assert_allclose(centres, expected, atol=1e-6)


def test_crops_of_fixed_scale_start_side_by_side():
    crop = stn.fixed(stn.attention(), {0: 0.5})
    expected = [[-0.5, 0], [0.5, 0]]
    np.testing.assert_allclose(start(stnn.tiled(scale=0.5), crop, 2), expected, atol=1e-6)
    # A given grid, three by one, with tiles that are not square.
    thetas = start(stnn.tiled(grid=(3, 1), scale=(0.8, 0.4)), stn.affine(), 3)
    expected = [[0.8, 0, 0, 0, 0.4, y] for y in (-2 / 3, 0, 2 / 3)]
    np.testing.assert_allclose(thetas, expected, atol=1e-6)


def test_crops_of_a_spline_have_no_matrix_but_their_points():
    t = stn.thin_plate_spline((2, 3))
    thetas = start(stnn.tiled(scale=0.5), t, 2)
    lattice = reference.regular_grid((2, 3), True).reshape(-1, 2)
    for theta, centre in zip(thetas, ([-0.5, 0], [0.5, 0]), strict=True):
        np.testing.assert_allclose(theta.reshape(-1, 2), 0.5 * lattice + centre, atol=1e-6)


def test_a_model_with_tiles_is_made_under_a_trace():
    make = lambda: stnn.RegressionHead(  # noqa: E731
        3, stn.affine(), num_transforms=2, initial_theta=stnn.tiled(), rngs=nnx.Rngs(0)
    )
    assert nnx.eval_shape(make).linear.bias.shape == (12,)
    traced = jax.jit(lambda: nnx.state(make()))()
    np.testing.assert_array_equal(traced["linear"]["bias"][...], make().linear.bias[...])


def test_perturbed_identity_is_drawn_apart_and_again_alike():
    t = stn.affine()
    first = start(stnn.perturbed_identity(0.1), t, 200)
    noise = (first - t.identity) / 0.1
    assert stats.kstest(noise.ravel(), "norm").pvalue > 1e-3
    np.testing.assert_array_equal(start(stnn.perturbed_identity(0.1), t, 200), first)
    assert np.abs(start(stnn.perturbed_identity(0.1), t, 200, seed=1) - first).min() > 0


@every_localization
def test_heads_and_starts_reach_every_localization(localization, rng):
    """Theta is what was asked for whatever the images, and a head of one's own is called."""
    make, t = LOCALIZATIONS[localization], stn.attention()
    images = jnp.asarray(rng.normal(size=(2, *IN_SHAPE)), jnp.float32)
    values = jnp.array([[0.5, 0.1, 0.2], [0.7, 0.3, 0.4]])
    network = make(t, num_transforms=2, initial_theta=values, rngs=nnx.Rngs(0))
    np.testing.assert_allclose(network(images), jnp.stack([values, values]), atol=1e-6)
    np.testing.assert_array_equal(network.head(network.features(images)), network(images))

    def own(in_features, transform, *, num_transforms, rngs):
        assert network.features(images).shape == (2, in_features)
        return nnx.Linear(in_features, num_transforms * transform.num_params, rngs=rngs)

    network = make(t, num_transforms=2, head=own, rngs=nnx.Rngs(0))
    assert isinstance(network.head, nnx.Linear)
    out = stnn.SpatialTransformer(network, t, num_transforms=2)(images)
    assert out.shape == (2, 2, *IN_SHAPE)


@pytest.mark.parametrize(
    ("options", "factor"), [({}, 0.125), ({"scale": 1.0}, 1), ({"scale": 0.3}, 0.3)]
)
def test_the_distance_from_the_identity_is_scaled(options, factor, rng):
    """Against NumPy; the start, the parameters' names and their shapes are those of any scale."""
    t, features = stn.affine(), rng.normal(size=(3, 4))
    make = {
        "one": lambda **o: stnn.RegressionHead(4, t, **o),
        "two": lambda **o: stnn.RegressionHead(4, t, num_transforms=2, **o),
        "mean": lambda **o: stnn.GaussianHead(4, t, **o).mean,
    }
    for name, head in make.items():
        head = head(**options, rngs=nnx.Rngs(0))
        number = 2 if name == "two" else 1
        shapes = {"kernel": (4, 6 * number), "bias": (6 * number,)}
        linear = nnx.state(head)["linear"]
        assert {key: linear[key].shape for key in linear} == shapes
        assert set(nnx.state(head)) == {"linear"}
        theta = np.asarray(head(jnp.asarray(features, jnp.float32))).reshape(3, number, 6)
        np.testing.assert_array_equal(theta, np.broadcast_to(t.identity, theta.shape))
        weights, bias = rng.normal(size=shapes["kernel"]), rng.normal(size=shapes["bias"])
        head.linear.kernel[...], head.linear.bias[...] = jnp.asarray(weights), jnp.asarray(bias)
        theta = np.asarray(head(jnp.asarray(features, jnp.float32))).reshape(3, -1)
        start = np.tile(t.identity, number)
        expected = start + factor * (features @ weights + bias - start)
        np.testing.assert_allclose(theta, expected, atol=1e-5)


def gaussian_head(t, number, std=0.1, **options):
    return stnn.GaussianHead(
        3, t, num_transforms=number, initial_std=std, rngs=nnx.Rngs(0, theta=1), **options
    )


def test_draws_have_the_mean_and_the_spread():
    t = stn.attention()
    stds = [0.1, 0.5, 0.02]
    head = gaussian_head(t, 400, stds, initial_theta=jnp.array([0.5, 0.1, 0.2]))
    features = jnp.ones((2, 3))
    theta = head(features)
    assert theta.shape == (2, 400, 3)
    for index, (mean, std) in enumerate(zip([0.5, 0.1, 0.2], stds, strict=True)):
        draws = np.asarray(theta[..., index], np.float64)
        assert stats.kstest((draws.ravel() - mean) / std, "norm").pvalue > 1e-3
    assert np.abs(theta[0] - theta[1]).min() > 0, "images draw apart"
    assert np.abs(head(features) - theta).min() > 0, "calls draw apart"
    again = gaussian_head(t, 400, stds, initial_theta=jnp.array([0.5, 0.1, 0.2]))
    np.testing.assert_array_equal(again(features), theta)
    mean, std = head.distribution(features)
    np.testing.assert_allclose(mean, np.tile([0.5, 0.1, 0.2], (2, 1)), atol=1e-6)
    np.testing.assert_allclose(std, np.tile(stds, (2, 1)), rtol=1e-5)


def test_eval_gives_the_mean_and_train_draws_again():
    t = stn.affine()
    network = stnn.FullyConnectedLocalization(
        IN_SHAPE, t, num_transforms=3, head=stnn.GaussianHead, rngs=nnx.Rngs(0)
    )
    st = stnn.SpatialTransformer(network, t, num_transforms=3)
    images = jnp.ones((2, *IN_SHAPE))
    assert np.abs(st.localize(images) - t.identity).max() > 0.01
    expected = np.broadcast_to(np.float32(t.identity), (2, 3, 6))
    np.testing.assert_array_equal(nnx.view(st, deterministic=True).localize(images), expected)
    st.eval()
    np.testing.assert_array_equal(st.localize(images), expected)
    st.train()
    assert np.abs(st.localize(images) - expected).max() > 0.01


def test_the_distribution_comes_out_of_a_whole_model():
    """For a KL term without a second pass, in every step of the transformer."""
    t = stn.attention()
    network = stnn.FullyConnectedLocalization(
        IN_SHAPE, t, hidden=(), num_transforms=2, head=stnn.GaussianHead, rngs=nnx.Rngs(0)
    )
    st = stnn.SpatialTransformer(network, t, num_transforms=2, num_steps=2)
    forward = nnx.capture(st, nnx.Intermediate, method_outputs=nnx.Intermediate)
    _, captured = forward(jnp.ones((3, *IN_SHAPE)))
    first, second = captured["localization"]["head"]["distribution"]
    np.testing.assert_allclose(first.mean, np.tile(t.identity, (3, 1)))
    np.testing.assert_allclose(first.std, np.full((3, 3), 0.1), rtol=1e-5)
    assert second.mean.shape == (6, 3), "of both outputs of the first step"


def test_mean_and_spread_are_learnt_through_the_draws():
    """Draws pulled to 0.7 ± 0.05: the likelihood's gradient finds both."""
    t = stn.fixed(stn.translation(), {1: 0.0})
    graphdef, params, rest = nnx.split(gaussian_head(t, 64, 0.3), nnx.Param, ...)

    @jax.jit
    def train(params, rest):
        def step(carry, _):
            params, rest = carry

            def loss(params):
                head = nnx.merge(graphdef, params, rest, copy=True)
                features = jnp.ones((1, 3))
                mean, std = head.distribution(features)
                draws = head.sample(mean, std)
                kl = jnp.sum(-jnp.log(std))
                fit = jnp.mean((draws - 0.7) ** 2) / (2 * 0.05**2)
                return fit + kl, nnx.state(head, nnx.Not(nnx.Param))

            gradient, rest = jax.grad(loss, has_aux=True)(params)
            params = jax.tree.map(lambda p, g: p - 1e-4 * g, params, gradient)
            return (params, rest), None

        return jax.lax.scan(step, (params, rest), length=2000)[0]

    params, rest = train(params, rest)
    mean, std = nnx.merge(graphdef, params, rest).distribution(jnp.ones((1, 3)))
    np.testing.assert_allclose(mean, [[0.7]], atol=0.02)
    np.testing.assert_allclose(std, [[0.05]], rtol=0.15)


def test_divergence_is_the_integral(rng):
    mean, std, prior_mean, prior_std = [0.3, -1.0], [0.5, 2.0], [0.0, 0.5], [1.0, 0.7]
    expected = 0.0
    for m, s, m0, s0 in zip(mean, std, prior_mean, prior_std, strict=True):
        p, q = stats.norm(m, s), stats.norm(m0, s0)
        integrand = lambda x, p=p, q=q: p.pdf(x) * (p.logpdf(x) - q.logpdf(x))  # noqa: E731
        expected += integrate.quad(integrand, m - 12 * s, m + 12 * s)[0]
    kl = stnn.gaussian_kl(
        jnp.array([mean, prior_mean]),
        jnp.array([std, prior_std]),
        prior_mean=np.array(prior_mean),
        prior_std=np.array(prior_std),
    )
    np.testing.assert_allclose(kl, [expected, 0], rtol=1e-5, atol=1e-6)


AFFINE = stn.affine()
BAD = {
    "start of another length": (
        lambda: start(jnp.zeros(5), AFFINE),
        r"initial_theta must have shape \(6,\), or \(1, 6\).*\(5,\)",
    ),
    "negative noise": (lambda: stnn.perturbed_identity(-1), "std must not be negative; got -1"),
    "no scale": (lambda: stnn.tiled(scale=0), "scale must be positive"),
    "no grid": (lambda: stnn.tiled(grid=(0, 2)), "grid must hold sizes of at least 1"),
    "scale of three": (lambda: start(stnn.tiled(scale=(1, 1, 1)), AFFINE), r"scale.*2, x first"),
    "grid of another number": (
        lambda: start(stnn.tiled(grid=(2, 2)), AFFINE, 2),
        r"grid must have 2 entries whose product.*2; got \(2, 2\)",
    ),
    "a family without such crops": (
        lambda: start(stnn.tiled(), stn.fixed(stn.attention(), {0: 0.5}), 2),
        r"cannot express.*\[0.5, 1.0\].*fixed\(attention\).*tiled\(scale=0.5\)",
    ),
    "a scale that a family does not have": (
        lambda: start(stnn.tiled(scale=0.5), stn.rigid(), 2),
        r"cannot express.*rigid.*affine",
    ),
    "a box that is too small": (
        lambda: start(stnn.tiled(), stn.bounded(AFFINE, radius=0.3), 4),
        r"cannot express.*bounded\(affine\).*wider radius",
    ),
    "no features left": (
        lambda: stnn.RegressionHead(3, AFFINE, scale=0.0, rngs=nnx.Rngs(0)),
        "scale must be a positive number; got 0.0",
    ),
    "unlimited features": (
        lambda: stnn.GaussianHead(3, AFFINE, scale=float("inf"), rngs=nnx.Rngs(0)),
        "scale must be a positive number; got inf",
    ),
    "no spread": (lambda: gaussian_head(AFFINE, 1, 0.0), "initial_std must be above 0.0001"),
    "spread of another length": (
        lambda: gaussian_head(AFFINE, 1, [0.1, 0.1]),
        "initial_std.*one for each of the 6 parameters of affine",
    ),
    "other features": (
        lambda: stnn.FeatureLocalization(jnp.sin, 5, AFFINE, rngs=nnx.Rngs(0))(
            jnp.ones((2, 3, 2, 1))
        ),
        r"features must return 5 features per image.*\(2, 3, 2, 1\), 6 per image",
    ),
}


@pytest.mark.usefixtures("no_runtime_types")
@pytest.mark.parametrize("case", BAD)
def test_error(case):
    call, message = BAD[case]
    with pytest.raises(ValueError, match=f"(?s){message}"):
        call()


@pytest.mark.usefixtures("no_runtime_types")
def test_features_that_cannot_be_called():
    with pytest.raises(TypeError, match="features must be callable"):
        stnn.FeatureLocalization(3, 5, AFFINE, rngs=nnx.Rngs(0))


def test_every_grid_is_as_square_as_its_number_allows():
    """Against trying all factorisations."""
    from stn_jax.nn.initializers import _squarest

    for number, ndim in itertools.product(range(1, 31), (2, 3)):
        every = [
            f
            for f in itertools.product(range(1, number + 1), repeat=ndim)
            if np.prod(f) == number and list(f) == sorted(f)
        ]
        assert max(_squarest(number, ndim)) == min(map(max, every)), (number, ndim)


def test_noise_has_the_digits_of_float32():
    """Bfloat16's own normals hold some 200 values, and none beyond 2.7."""
    head = stnn.GaussianHead(4, stn.affine(), rngs=nnx.Rngs(0))
    mean = jnp.zeros((4096, 6), jnp.bfloat16)
    draws = head.sample(mean, jnp.ones_like(mean))
    assert draws.dtype == jnp.bfloat16
    assert len(np.unique(np.asarray(draws, np.float32))) > 1000
    assert float(jnp.abs(draws).max()) > 3.5


def test_the_divergence_keeps_its_dtype_in_strict_modes():
    mean, std = jnp.zeros((3, 6), jnp.float32), jnp.ones((3, 6), jnp.float32)
    with (
        jax.enable_x64(True),
        jax.numpy_dtype_promotion("strict"),
        jax.numpy_rank_promotion("raise"),
    ):
        assert stnn.gaussian_kl(mean, std, stn.affine().identity, 0.1).dtype == jnp.float32

"""Every transform works under the transformations of JAX, and as a Python record."""

import copy
import gc
import pickle
from pathlib import Path

import cloudpickle
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import CONTROL, MEMBERS
from jax import export
from leaks import checking_leaks
from members import every_member
from scipy import interpolate

import stn_jax as stn

pytestmark = [pytest.mark.conformance("member"), pytest.mark.cross_section(7)]
COPIES = {
    "pickle": lambda t: pickle.loads(pickle.dumps(t)),
    "cloudpickle": lambda t: cloudpickle.loads(cloudpickle.dumps(t)),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


def look(t, theta, points):
    """The map, its inverse and its gradients."""

    def loss(theta, points):
        return jnp.sum(jnp.sin(t.apply(theta, points)))

    gradients = jax.grad(loss, (0, 1))(theta, points)
    matrix = () if t.homogeneous is None else t.matrix(theta)
    return t.apply(theta, points), t.invert(theta, points), gradients, matrix


def shapes(member, *batch):
    t = MEMBERS[member].transform
    theta = jax.ShapeDtypeStruct((t.num_params,), np.float32)
    return theta, jax.ShapeDtypeStruct((*batch, t.ndim), np.float32)


@every_member
@pytest.mark.parametrize("way", COPIES)
def test_a_copy_is_the_record_itself(member, way):
    t = MEMBERS[member].transform
    assert COPIES[way](t) is t
    assert COPIES[way]({"model": [t]})["model"][0] is t


@every_member
def test_records_are_compared_by_how_they_were_made(member):
    t = MEMBERS[member].transform
    again = jax.tree.unflatten(*reversed(jax.tree.flatten(t)))
    assert again is not t
    assert again == t
    assert hash(again) == hash(t)
    assert [name for name in MEMBERS if MEMBERS[name].transform == t] == [member]
    assert jax.tree.leaves(t) == [], "numbers of NumPy are structure"


@every_member
def test_strict_modes_change_nothing(member):
    """With x64 on float32 stays float32, and nothing is promoted implicitly."""
    t = MEMBERS[member].transform
    with (
        jax.enable_x64(True),
        jax.numpy_dtype_promotion("strict"),
        jax.numpy_rank_promotion("raise"),
    ):
        out = jax.eval_shape(lambda *operands: look(t, *operands), *shapes(member, 2, 3))
    assert {leaf.dtype for leaf in jax.tree.leaves(out)} == {np.dtype("float32")}


@every_member
def test_no_points(member):
    t = MEMBERS[member].transform
    out = jax.eval_shape(lambda *operands: look(t, *operands), *shapes(member, 2, 0))
    assert out[0].shape == out[1].shape == (2, 0, t.ndim)


@every_member
def test_points_of_any_number_are_exported(member):
    t = MEMBERS[member].transform
    (number,) = export.symbolic_shape("b")
    exported = export.export(jax.jit(t.apply))(*shapes(member, number))
    assert exported.out_avals[0].shape == (number, t.ndim)


@pytest.mark.cross_section(13)
@every_member
def test_scan_remat_and_nested_vmap_without_leaks(member):
    t = MEMBERS[member].transform
    thetas = np.float32([MEMBERS[member].theta(seed, 0.5) for seed in range(2)])
    points = np.float32(MEMBERS[member].points(7, 3))

    @jax.jit
    def scanned(thetas, points):
        mapped = jax.checkpoint(lambda theta, point: t.apply(theta, point))
        # vmap over points and over thetas, with the axes in another order.
        across = jax.vmap(jax.vmap(mapped, (None, 0)), (0, None), out_axes=1)

        def step(total, shift):
            value, slope = jax.value_and_grad(lambda th: across(th, points + shift).sum())(thetas)
            return total + value, (across(thetas, points + shift), slope)

        return jax.lax.scan(step, points.sum() * 0, jnp.zeros(2))[1]

    with checking_leaks(), jax.debug_nans(True):
        mapped, slopes = scanned(thetas, points)
    expected = np.stack([MEMBERS[member].oracle(theta, points) for theta in thetas], axis=1)
    np.testing.assert_allclose(mapped, np.stack([expected] * 2), atol=3e-5)
    assert bool(jnp.isfinite(slopes).all())


def test_a_copied_record_does_not_compile_again():
    traces = []
    function = jax.jit(lambda t, theta: traces.append(t) or t.identity + theta, static_argnums=0)
    for _ in range(3):
        gc.collect()  # also a record that was made anew
        function(stn.bounded(stn.affine(), radius=0.25), jnp.zeros(6))
    assert len(traces) == 1


def test_a_record_of_lambdas_is_compared_by_them():
    shift = lambda theta, points: theta + 0 * points  # noqa: E731
    back = lambda theta, points: points - theta  # noqa: E731
    fields = {"ndim": 2, "identity": np.zeros(2), "displacement": shift, "inverse": back}
    one, other = (stn.Transform(name="shift", **fields) for _ in range(2))
    assert one == other
    assert hash(one) == hash(other)
    assert one != stn.Transform(name="drift", **fields)
    assert copy.deepcopy(one) is one
    assert cloudpickle.loads(cloudpickle.dumps(one)).name == "shift"
    with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
        pickle.dumps(one)


def test_a_family_of_its_own_says_what_it_cannot_take(no_runtime_types):
    @stn.family
    def shift(scales):
        return stn.translation()

    assert shift((1, 2)) == shift(scales=(1, 2))
    assert shift((1, 2)) != stn.translation()
    with pytest.raises(TypeError, match=r"scales of shift must be hashable.*\[1\].*tuple"):
        shift([1])


def test_traced_numbers_cannot_be_hashed():
    def make(radius):
        return hash(stn.bounded(stn.affine(), radius=radius))

    with pytest.raises(TypeError, match=r"traced arrays cannot be hashed.*ordinary argument"):
        jax.jit(make)(0.5)


def test_a_spline_for_each_sample(rng):
    """Landmarks of faces: batched control points, compared with SciPy one by one."""
    targets = np.float32(rng.uniform(-1, 1, (3, 8, 2)))
    sources = targets + np.float32(rng.uniform(-0.1, 0.1, targets.shape))
    points = np.float32(rng.uniform(-1, 1, (5, 2)))

    def move(target, source):
        return stn.thin_plate_spline(control_points=target).apply(source.ravel(), points)

    with checking_leaks():
        moved = jax.vmap(move)(targets, sources)
    for target, source, own in zip(targets, sources, moved, strict=True):
        spline = interpolate.RBFInterpolator(target, source, kernel="thin_plate_spline", degree=1)
        np.testing.assert_allclose(own, spline(points), atol=1e-4)
    splines = jax.vmap(lambda target: stn.thin_plate_spline(control_points=target))(targets)
    again = jax.vmap(lambda t, source: t.apply(source.ravel(), points))(splines, sources)
    np.testing.assert_allclose(again, moved, atol=1e-5)


NUMBERS = {
    "control points": (
        lambda value: stn.thin_plate_spline(control_points=value),
        CONTROL,
        CONTROL.ravel() + 0.1 * np.cos(np.arange(12)),
    ),
    "smoothing": (
        lambda value: stn.thin_plate_spline((3, 3), smoothing=value),
        np.array(0.3),
        stn.thin_plate_spline((3, 3)).identity + 0.1 * np.cos(np.arange(18)),
    ),
    "radius": (
        lambda value: stn.bounded(stn.affine(), radius=value),
        np.linspace(0.2, 0.4, 6),
        np.array([1.2, 0.1, -0.3, 0.2, 0.7, 0.4]),
    ),
    "held values": (
        lambda value: stn.fixed(stn.similarity(), {0: value, 2: 2 * value}),
        np.array(0.7),
        np.array([0.3, -0.2]),
    ),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_may_be_traced_and_differentiated(name, x64):
    make, value, theta = NUMBERS[name]
    points = np.array([[0.3, -0.4], [-0.7, 0.8]])

    def total(value):
        return make(value).apply(theta, points).sum()

    along = np.cos(1 + np.arange(value.size)).reshape(value.shape)
    np.testing.assert_allclose(jax.jit(total)(value), total(value), rtol=1e-9)
    with checking_leaks():
        slope = jnp.sum(jax.jit(jax.grad(total))(jnp.asarray(value)) * along)
    step = 1e-6
    expected = (total(value + step * along) - total(value - step * along)) / (2 * step)
    np.testing.assert_allclose(slope, expected, rtol=1e-6)
    np.testing.assert_allclose(
        jax.jvp(total, (jnp.asarray(value),), (jnp.asarray(along),))[1], expected, rtol=1e-6
    )


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's account of memory")
def test_fresh_numbers_neither_compile_nor_stay(rng):
    image = jnp.ones((8, 8, 1))
    for call in range(41):
        if call == 1:
            before = resident()
        points = rng.uniform(-1, 1, (8, 2))
        theta = points.ravel().astype(np.float32)
        stn.warp(image, stn.thin_plate_spline(control_points=points), theta)
        stn.warp(image, stn.bounded(stn.rigid(), radius=0.1 + call / 100), np.zeros(3, np.float32))
    assert (resident() - before) / 40 < 0.1, "MiB a call"


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_aspect_makes_the_spline_of_pixels(smoothing, rng):
    height, width = 40, 120
    half = np.array([width, height]) / 2
    control, moved = rng.uniform(-1, 1, (2, 9, 2))
    points = rng.uniform(-1, 1, (20, 2))
    # Our r² log r² of distances in half heights; SciPy's r² log r of pixels.
    in_pixels = interpolate.RBFInterpolator(
        control * half,
        moved * half,
        kernel="thin_plate_spline",
        degree=1,
        smoothing=smoothing * half[1] ** 2 / 2,
    )
    t = stn.thin_plate_spline(control_points=control, smoothing=smoothing, aspect=width / height)
    with jax.enable_x64(True):
        own = t.apply(moved.ravel(), points)
    np.testing.assert_allclose(own, in_pixels(points * half) / half, atol=1e-10)


def test_chain_takes_a_sequence_and_names_what_is_no_transform(no_runtime_types):
    assert stn.chain([stn.affine(), stn.rigid()]) is stn.chain(stn.affine(), stn.rigid())
    with pytest.raises(TypeError, match=r"must be a Transform.*'affine'"):
        stn.chain("affine", stn.rigid())
    assert stn.diffeomorphic((4, 4), steps=np.int64(3)) is stn.diffeomorphic((4, 4), steps=3)
    assert stn.affine(ndim=np.int64(2)) is stn.affine()


def test_a_chain_of_displacements_is_as_long_a_program_for_more_steps():
    """A loop computes each step once; if it were unrolled, XLA would recompute it at each use."""
    field = stn.displacement((5, 5))

    def lines(number):
        chain = stn.chain(*[field] * number)
        lowered = jax.jit(chain.apply).lower(jnp.zeros(chain.num_params), jnp.zeros((64, 2)))
        return len(lowered.as_text().splitlines())

    assert lines(8) < 1.5 * lines(4)


def test_x64_may_change_between_calls():
    """A record's NumPy arrays get the current default dtype."""
    t = stn.thin_plate_spline(control_points=np.random.default_rng(0).uniform(-1, 1, (6, 2)))

    def program(theta):
        return stn.warp(jnp.zeros((3, 3, 1)), t, theta)

    for x64, dtype in ((False, jnp.float32), (True, jnp.float64), (False, jnp.float32)):
        with jax.enable_x64(x64):
            assert jax.jit(program)(jnp.asarray(t.identity)).dtype == dtype

"""Digits in volumes: their poses, the models, and the command."""

import json
import os
import signal
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import scipy.spatial.transform
import scipy.stats
from flax import nnx

import stn_jax as stn
from experiments import models
from experiments.data import volumes
from experiments.data.distortions import distort_test_images, distorted_shape
from experiments.data.tasks import TASKS
from experiments.engine.metrics import MetricsLog
from experiments.models.volumes import flatten, three_views
from experiments.report import animation
from experiments.report.runs import read_run, transform_named
from experiments.volumes import __main__ as command

# These run whole commands with trainings.
pytestmark = pytest.mark.slow

IMAGE_SHAPE, SIDE = (8, 8, 1), 17
RUN = Path("volumes", "st-fcn-affine", "seeds-0")


def lattice(*shape):
    """Voxels' centres in normalised coordinates, ``[*shape, (x, y, z)]``, in float64."""
    axes = [(2 * np.arange(size) + 1 - size) / size for size in shape]
    return np.stack(np.meshgrid(*axes, indexing="ij")[::-1], axis=-1)


def sampled(solid, voxels):
    """The solid at voxels ``[..., (x, y, z)]``, black outside."""
    coordinates = np.moveaxis(voxels[..., ::-1], -1, 0)
    return scipy.ndimage.map_coordinates(solid, coordinates, order=1, mode="grid-constant")


def drawn(number, shape=IMAGE_SHAPE):
    """Scales, turns, and centres as shares of the room, of a number of draws."""
    keys = jax.random.split(jax.random.key(1), number)
    theta = np.asarray(jax.vmap(lambda key: volumes.pose(key, shape))(keys), np.float64)
    ratio = volumes.volume_shape(shape)[0] / max(shape[:2])
    turns = scipy.spatial.transform.Rotation.from_rotvec(theta[:, 1:4])
    # The place of the middle of the digit's cube.
    centres = turns.inv().apply(-theta[:, 4:]) / theta[:, :1]
    return ratio / theta[:, 0], theta[:, 1:4], centres / (1 - 1 / ratio)


@pytest.mark.parametrize("shape", [(8, 8, 1), (8, 6, 1), (5, 12, 2)])
@pytest.mark.parametrize("seed", range(2))
def test_a_volume_is_the_explicit_solid_resampled_by_scipy(rng, shape, seed):
    image = rng.uniform(size=shape)
    side = max(shape[:2])
    thickness, size = round(side / 4), round(60 / 28 * side)
    key = jax.random.key(seed)
    ours = np.asarray(volumes.extrude(key, jnp.asarray(image, jnp.float32)))
    assert ours.shape == (size, size, size, shape[-1])
    theta = np.asarray(volumes.pose(key, shape), np.float64)
    turn = scipy.spatial.transform.Rotation.from_rotvec(theta[1:4]).as_matrix()
    points = theta[0] * lattice(size, size, size) @ turn.T + theta[4:]
    # Voxels of the solid, which stands in the middle of a cube of the image's longer side.
    middle = (np.array([shape[1], shape[0], thickness]) - 1) / 2
    for channel in range(shape[-1]):
        explicit = np.broadcast_to(image[..., channel], (thickness, *shape[:2]))
        expected = sampled(explicit, side / 2 * points + middle)
        assert expected.max() > 0.3
        np.testing.assert_allclose(ours[..., channel], expected, atol=1e-5)


def test_digits_lie_in_volumes_as_the_docstring_says():
    scales, turns, centres = drawn(2000)
    angles = np.linalg.norm(turns, axis=-1)
    axes = turns / angles[:, None]
    for values, low, high in (
        (scales, 0.7, 1.2),
        # Either way about an axis is the same as one way about it or its opposite.
        (np.degrees(angles), 0, 60),
        # On a sphere every coordinate is uniform.
        *((axis, -1, 1) for axis in axes.T),
        *((centre, -1, 1) for centre in centres.T),
    ):
        assert low - 1e-4 <= values.min()
        assert values.max() <= high + 1e-4
        assert scipy.stats.kstest(values, "uniform", (low, high - low)).pvalue > 1e-3
    together = np.column_stack([scales, angles, axes, centres])
    assert np.abs(np.corrcoef(together.T) - np.eye(8)).max() < 0.1


def test_an_upright_digit_that_fills_its_volume_looks_like_its_image(rng):
    image = jnp.asarray(rng.uniform(size=IMAGE_SHAPE), jnp.float32)
    volume = volumes.solid(
        image, jnp.asarray(stn.similarity(ndim=3).identity, jnp.float32), (8, 8, 8)
    )
    np.testing.assert_allclose(flatten(volume), image, atol=1e-6)
    assert int((np.asarray(volume).sum(axis=(1, 2, 3)) > 0).sum()) == 2


def test_views_are_means_along_the_axes(rng):
    cubes = rng.uniform(size=(2, 5, 5, 5, 2))
    views = np.asarray(three_views(jnp.asarray(cubes, jnp.float32)))
    for axis in range(3):
        expected = 4 * cubes.mean(axis=1 + axis)
        np.testing.assert_allclose(views[..., 2 * axis : 2 * axis + 2], expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["st-fcn", "2xst-fcn"])
def test_an_untrained_transformer_passes_the_flattened_volume_on(rng, name):
    cubes = jnp.asarray(rng.uniform(size=(2, 17, 17, 17, 1)), jnp.float32)
    kind = (name, "affine", cubes.shape[1:], 4)
    number = models.num_transforms(name)
    # Unchanged at the volume's own size; by one linear resampling at that of the digits.
    whole = models.build(*kind, rngs=nnx.Rngs(0))
    same = jnp.tile(flatten(cubes), number)
    np.testing.assert_array_equal(whole(cubes), whole.classifier(same))
    small = models.build(*kind, crop=(8, 8, 8), rngs=nnx.Rngs(0))
    voxels = 17 / 2 * lattice(8, 8, 8) + 8
    resampled = np.stack([sampled(np.float64(cube[..., 0]), voxels) for cube in cubes])
    expected = np.tile(4 * resampled.mean(axis=1)[..., None], number)
    np.testing.assert_allclose(small(cubes), small.classifier(jnp.asarray(expected)), atol=1e-5)


@pytest.mark.parametrize("transform", models.TRANSFORMS)
def test_transforms_of_volumes(transform):
    build = lambda: models.build("st-fcn", transform, (9, 9, 9, 1), 4, rngs=nnx.Rngs(0))  # noqa: E731
    if transform in ("projective", "thin_plate_spline"):
        with pytest.raises(ValueError, match=rf"affine for volumes; got '{transform}'"):
            nnx.eval_shape(build)
        with pytest.raises(ValueError, match=r"exists for ndim = 2|in 3-D"):
            transform_named(transform, 3)
        return
    model = nnx.eval_shape(build)
    assert (model.transformer.transform.name, model.transformer.transform.ndim) == (transform, 3)
    assert model.transformer.transform is transform_named(transform, 3)
    logits = nnx.eval_shape(lambda model: model(jnp.zeros((2, 9, 9, 9, 1))), model)
    assert logits.shape == (2, 4)


def test_models_of_volumes_have_as_many_parameters_as_the_others():
    image_shape = (28, 28, 1)
    in_shape = distorted_shape(TASKS["volumes"].distortion, image_shape)
    assert in_shape == (60, 60, 60, 1)
    for name in ("fcn", "cnn", "st-fcn", "st-cnn", "2xst-fcn"):
        crop = models.crop_of("volumes", name, image_shape)
        kind = (name, "affine", in_shape, 10)
        width = models.width_for(models.PARAMETERS, *kind, crop=crop)
        create = lambda: models.build(*kind, width=width, crop=crop, rngs=nnx.Rngs(0))  # noqa: B023, E731
        model = nnx.eval_shape(create)
        assert abs(models.count_parameters(model) / 400_000 - 1) < 0.015
        if models.has_transformer(name):
            assert model.transformer.output_shape == (28, 28, 28)


def test_a_test_volume_depends_on_its_number_alone(rng):
    images = rng.integers(0, 256, (5, *IMAGE_SHAPE)).astype(np.uint8)
    whole = distort_test_images(volumes.extrude, images)
    part = distort_test_images(volumes.extrude, images, jnp.array([3]))
    np.testing.assert_allclose(part[0], whole[3], atol=1e-6)
    assert whole.shape == (5, SIDE, SIDE, SIDE, 1)


def test_a_caption_gives_the_rows_of_a_3_by_4_matrix():
    caption = animation.theta_caption(1, 2, np.float32(stn.affine(ndim=3).identity))
    rows = ("1.00 0.00 0.00 0.00", "0.00 1.00 0.00 0.00", "0.00 0.00 1.00 0.00")
    assert caption == f"batch = 1/2, theta = [{' / '.join(rows)}]"


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Two classes of noise that differ in brightness."""
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 2
    images = rng.integers(0, 100, (40, *IMAGE_SHAPE[:2])) + 120 * labels[:, None, None]
    path = tmp_path_factory.mktemp("data") / "noise.npz"
    np.savez(path, x_train=images[:30], y_train=labels[:30], x_test=images[30:], y_test=labels[30:])
    return f"npz:{path}"


def arguments(data, out, *more):
    return [
        *("--models", "fcn", "st-fcn", "--data", data, "--out", str(out), "--seeds", "0"),
        *("--steps", "6", "--steps-per-dispatch", "2", "--batch-size", "4"),
        *("--validation", "0.1", "--width", "0.1", *more),
    ]


@pytest.fixture(scope="session")
def finished(data, tmp_path_factory):
    """An uninterrupted table."""
    out = tmp_path_factory.mktemp("volumes") / "finished"
    assert command.main(arguments(data, out)) == 0
    return out


@pytest.mark.slow
def test_what_the_command_leaves(finished):
    entries = json.loads((finished / "table.json").read_text())
    assert [(entry["model"], entry["transform"]) for entry in entries] == [
        ("fcn", None),
        ("st-fcn", "affine"),
    ]
    assert all(entry["paper"] is None and 0 <= entry["mean"] <= 100 for entry in entries)
    assert "The paper gives no number" in (finished / "table.txt").read_text()
    page = (finished / "report.html").read_text()
    assert "flattened along their depth" in page
    # No region is drawn, so none is explained.
    assert "in orange the region" not in page
    read = read_run(finished / RUN)
    pictures = read.pictures
    assert pictures.inputs.shape == (2, SIDE, SIDE, 1)
    assert pictures.regions.outputs.shape == (4, 2, 1, 8, 8, 1)
    assert pictures.regions.transform is stn.affine(ndim=3)
    np.testing.assert_array_equal(pictures.regions.theta[0, 0, 0], np.eye(3, 4).ravel())
    gif = animation.theta_animation(pictures, total_steps=6, max_images=2)
    assert gif.startswith(b"GIF")


@pytest.mark.parametrize(
    ("more", "error"),
    [
        (("--transforms", "projective"), "affine for volumes; got 'projective'"),
        (("--models", "cnn", "st-cnn"), "at least 24×24 pixels"),
    ],
)
def test_bad_input(data, tmp_path, capsys, more, error):
    out = tmp_path / "run"
    assert command.main(arguments(data, out, *more)) == 2
    assert error in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.slow
def test_a_stopped_command_goes_on_to_the_same_numbers(data, finished, tmp_path, monkeypatch):
    words = arguments(data, tmp_path / "stopped", "--models", "st-fcn")
    append = MetricsLog.append

    def terminated(log, row):
        append(log, row)
        if row["step"] == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(MetricsLog, "append", terminated)
        assert command.main(words) == 130
    folder = tmp_path / "stopped" / RUN
    assert not (folder / "result.json").exists()
    assert command.main(words) == 0
    [entry] = json.loads((tmp_path / "stopped" / "table.json").read_text())
    assert entry == json.loads((finished / "table.json").read_text())[1]
    looks = [read_run(each).pictures.regions for each in (folder, finished / RUN)]
    for name in ("theta", "outputs"):
        np.testing.assert_array_equal(*(getattr(look, name) for look in looks))


@pytest.mark.slow
def test_the_same_command_again_changes_nothing(data, finished):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("result.json")}
    table = (finished / "table.json").read_bytes()
    assert len(before) == 2
    assert command.main(arguments(data, finished)) == 0
    assert before == {path: path.stat().st_mtime_ns for path in finished.rglob("result.json")}
    assert table == (finished / "table.json").read_bytes()

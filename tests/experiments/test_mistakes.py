"""Mistakes that people make, and the words by which they find out.

A message says what was wrong, what was expected, what was given, and what to do. The words stand in
this order in it.
"""
# A row of the tables is a line.
# ruff: noqa: E501

import importlib
import re
import struct
import warnings

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import stn_jax as stn
from experiments.data.sources import load
from stn_jax import conversions
from stn_jax import nn as stnn

pytestmark = pytest.mark.usefixtures("no_runtime_types")

IMAGE, VOLUME = np.zeros((8, 8, 1), np.float32), np.zeros((4, 4, 4, 1), np.float32)
IDENTITY = np.array([1.0, 0, 0, 0, 1, 0], np.float32)
GRID = np.zeros((4, 4, 2), np.float32)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with data sets that are good and bad."""
    folder = tmp_path_factory.mktemp("mistakes")
    random = np.random.default_rng(0)
    images, labels = random.integers(0, 256, (20, 12, 12), np.uint8), np.arange(20) % 2
    good = {"x_train": images, "y_train": labels, "x_test": images, "y_test": labels}

    def save(name, **changes):
        arrays = {key: value for key, value in (good | changes).items() if value is not None}
        np.savez(folder / f"{name}.npz", **arrays)

    def both(shape):
        return dict.fromkeys(("x_train", "x_test"), random.integers(0, 256, (20, *shape), np.uint8))

    save("good")
    save("large", **both((64, 64)))
    save("colour-first", **both((3, 12, 12)))
    save("grey-first", **both((1, 12, 12)))
    save("names", x_train=None, y_train=None, images=images)
    save("negative", x_train=images - 1.0 * images - 1)
    save("sixteen-bits", x_train=images.astype(np.uint16) * 200)
    save("words", y_train=np.array(["cat", "dog"] * 10))
    save("fewer", y_train=labels[1:])
    save("halves", y_train=labels / 2)
    save("from-one", y_train=labels + 1, y_test=labels + 1)
    save("one-hot-from-one", y_train=np.eye(3)[labels + 1], y_test=np.eye(3)[labels + 1])
    save("gaps", y_train=labels * 7, y_test=labels * 7)
    save("untrained", y_test=np.arange(20) % 4)
    save("minus-one", y_train=2 * labels - 1, y_test=2 * labels - 1)
    for part in ("train", "t10k"):
        idx = struct.pack(">IIII", 0x803, *images.shape) + images.tobytes()
        (folder / "letters").mkdir(exist_ok=True)
        (folder / "letters" / f"{part}-images-idx3-ubyte").write_bytes(idx)
        idx = struct.pack(">II", 0x801, len(labels)) + (labels + 1).astype(np.uint8).tobytes()
        (folder / "letters" / f"{part}-labels-idx1-ubyte").write_bytes(idx)
    save("exchanged", x_train=labels, y_train=images)
    save("two-shapes", x_test=images[:, 2:, 2:])
    save("objects", x_train=np.array([1, "a"], object))
    np.save(folder / "one.npy", images)
    (folder / "text.npz").write_text("hello")
    (folder / "unknown.json").write_text('{"learning-rate": 0.1, "epochs": 3}')
    (folder / "broken.json").write_text('{"steps": 5,')
    (folder / "list.json").write_text("[1]")
    (folder / "nested.toml").write_text("[training]\nsteps = 5\n")
    (folder / "full").mkdir()
    (folder / "full" / "thesis.txt").write_text("years of work")
    return folder


# A source of data, and the words.
DATA = {
    "an NPZ file that is missing": ("npz:@/absent.npz", "absent.npz: expected a readable .npz; got nothing there; check the path"),
    "a folder as an NPZ file": ("npz:@", "expected a readable .npz; got a folder; name the file in it"),
    "one array as an NPZ file": ("npz:@/one.npy", "expected a readable .npz; got a file of one array; numpy.savez"),
    "text as an NPZ file": ("npz:@/text.npz", "expected a readable .npz; got; zip; numpy.savez"),
    "arrays of objects": ("npz:@/objects.npz", "expected; plain numbers; got Object arrays; numpy.savez, without object"),
    "other names of arrays": ("npz:@/names.npz", "expected x_train, y_train; got; images; rename"),
    "colour channels first": ("npz:@/colour-first.npz", "channels on the last axis; got uint8 of shape (20, 3, 12, 12); numpy.moveaxis(images, 1, -1)"),
    "a grey channel first": ("npz:@/grey-first.npz", "channels on the last axis; got; (20, 1, 12, 12); numpy.moveaxis"),
    "standardised images": ("npz:@/negative.npz", "expected finite image values from 0 to 255; got -1; rescale"),
    "images of 16 bits": ("npz:@/sixteen-bits.npz", "expected finite image values from 0 to 255; got; 51; rescale"),
    "labels in words": ("npz:@/words.npz", "expected labels [n]; got <U3; numpy.unique"),
    "a label too few": ("npz:@/fewer.npz", "expected one label for each image; got 20 images and 19 labels; check"),
    "labels that are no whole numbers": ("npz:@/halves.npz", "expected labels that are whole numbers; got float64; 0.0 to 0.5; number the classes from 0"),
    "classes numbered from 1": ("npz:@/from-one.npz", "from-one.npz: expected training labels that number all classes from 0 on, 0 to 2; got 1 to 2, without 0; subtract 1 from all labels"),
    "classes numbered from 1 in MNIST's files": ("idx:@/letters", "letters: expected; from 0 on; got 1 to 2, without 0; subtract 1"),
    "one-hot labels with an unused column": ("npz:@/one-hot-from-one.npz", "expected; from 0 on; got 1 to 2, without 0; subtract 1"),
    "numbers of classes left out": ("npz:@/gaps.npz", "expected; from 0 on, 0 to 7; got 0 to 7, without 1, 2, 3, 4, 5 and 1 more; numpy.searchsorted"),
    "test images of other classes": ("npz:@/untrained.npz", "expected; from 0 on, 0 to 3; got 0 to 1, without 2, 3; add training images of 2, 3"),
    "labels of -1 and 1": ("npz:@/minus-one.npz", "expected labels that are whole numbers; got int64; -1 to 1; numpy.searchsorted"),
    "images and labels exchanged": ("npz:@/exchanged.npz", "expected numeric images; got int64 of shape (20,); exchanged"),
    "images of two shapes": ("npz:@/two-shapes.npz", "expected images of shape (12, 12, 1), as in training; got (10, 10, 1); bring"),
    "a name of a set alone": ("mnist", "expected one of digits, idx:FOLDER; got 'mnist'; idx:FOLDER, the folder of its four files, or tfds"),
    "a path without its form": ("@/good.npz", "expected one of; npz:FILE; got; good.npz'; for an NPZ file write npz:"),
    "a folder without its form": ("@", "expected one of; got; write idx:"),
    "nothing after the colon": ("npz:", "expected one of; npz:FILE; got 'npz:'; after the colon"),
    "a source that does not exist": ("cifar10", "expected one of; got 'cifar10'; name a source"),
    "a folder of MNIST that is missing": ("idx:@/absent", "expected a folder with the four MNIST files; got nothing there; name"),
    "a file as a folder of MNIST": ("idx:@/text.npz", "expected a folder with the four MNIST files; got a file; name their folder"),
    "a folder without MNIST": ("idx:@/full", "expected the four MNIST files; got a folder without train-images-idx3-ubyte; put them there"),
    "a set that TFDS has not prepared": ("tfds:fashion_mnist", "expected fashion_mnist prepared by TFDS; got; tfds build fashion_mnist; tfds:fashion_mnist@DATA_DIR"),
    "a folder without a set of TFDS": ("tfds:@/full", "expected mnist prepared by TFDS; got; tfds build mnist; npz:FILE"),
    "signs that are missing": ("gtsrb:@/absent", "expected a folder with Final_Training/Images; got none; name that folder"),
}  # fmt: skip

# A command, its words, and those of the message.
DIGITS = "--data npz:@/good.npz --out @/run"
COMMANDS = {
    "another name of an option": ("distorted_mnist", f"{DIGITS} --lr 0.1", "has no option --lr; --learning-rate; --help"),
    "epochs": ("distorted_mnist", f"{DIGITS} --epochs 3", "has no option --epochs; --steps; --help"),
    "a typing error in an option": ("distorted_mnist", f"{DIGITS} --distorsion R", "has no option --distorsion; --distortion"),
    "a typing error in a command": ("distorted_mnist", "tabel", "its commands are table, recipes, pictures; got 'tabel'; --help"),
    "the command last": ("distorted_mnist", f"{DIGITS} table", "table must come first; python -m experiments.distorted_mnist table"),
    "a command where there is none": ("birds", "train", "must be followed by options; got 'train'; --help"),
    "seeds with commas": ("distorted_mnist", f"{DIGITS} --seeds 0,1", "--seeds takes numbers with spaces; got '0,1'; --seeds 0 1"),
    "the same seed twice": ("distorted_mnist", f"{DIGITS} --seeds 0 0", "seeds must be one or more different integers; got (0, 0)"),
    "a number in words": ("distorted_mnist", f"{DIGITS} --steps many", "--steps; 'many'; --help"),
    "no steps": ("distorted_mnist", f"{DIGITS} --steps 0", "steps must be at least 1; got 0"),
    "a learning rate of 0": ("distorted_mnist", f"{DIGITS} --learning-rate 0", "learning_rate must be positive; got 0"),
    "ten percent as 10": ("distorted_mnist", f"{DIGITS} --validation 10", "validation: expected a share; got 10.0; 0.1"),
    "a share that leaves nothing": ("distorted_mnist", f"{DIGITS} --validation 0.01", "validation: expected to leave images in both; got; choose another share, or 0"),
    "a set in small letters": ("distorted_mnist", f"{DIGITS} --distortion rts", "'rts'; --distortion; Expected one of; 'RTS'"),
    "a transform's short name": ("distorted_mnist", f"{DIGITS} --transform tps", "'tps'; --transform; Expected one of; 'thin_plate_spline'"),
    "a model that does not exist": ("distorted_mnist", f"{DIGITS} --model resnet", "'resnet'; --model; Expected one of; 'st-cnn'"),
    "a dtype that is not offered": ("distorted_mnist", f"{DIGITS} --precision float16", "'float16'; --precision; Expected one of; 'bfloat16'"),
    "images too small": ("distorted_mnist", f"{DIGITS} --model cnn", "CNN takes images of at least 24×24; got (12, 12, 1); fcn"),
    "images too large": ("distorted_mnist", "--data npz:@/large.npz --out @/run --distortion RTS", "image must fit; 42×42; got 64×64; Choose another distortion"),
    "a volume with a 2-D family": ("distorted_mnist", f"{DIGITS} --distortion volumes --transform projective", "transform must be translation; for volumes; got 'projective'; 3-D"),
    "volumes with a spline": ("volumes", f"{DIGITS} --validation 0 --transforms thin_plate_spline", "transform must be translation; for volumes; got 'thin_plate_spline'; 3-D"),
    "a batch in parts that do not fit": ("distorted_mnist", f"{DIGITS} --accumulate 3", "accumulate must divide the batch size, 128; got 3"),
    "early stopping by nothing": ("distorted_mnist", f"{DIGITS} --early-stopping 3 --validation 0", "--early-stopping needs images to be held out; got --validation 0"),
    "measuring what is not held out": ("distorted_mnist", f"{DIGITS} --on validation --validation 0", "--on validation needs images to be held out; got --validation 0"),
    "to resume and to delete": ("distorted_mnist", f"{DIGITS} --resume --overwrite", "--resume and --overwrite exclude each other"),
    "to resume what is not there": ("colocalisation", "--out @/absent --resume", "--resume must find a run; absent; does not exist; --out"),
    "another folder as the output": ("distorted_mnist", "--data npz:@/good.npz --model fcn --out @/full", "full exists and is not a run; another --out"),
    "one process of several": ("distorted_mnist", f"{DIGITS} --coordinator host:1", "coordinator and num_processes go together; got; host:1"),
    "settings that are missing": ("invariance", "--config @/absent.json", "--config must name a file; got; absent.json; Check its path"),
    "settings with other names": ("distorted_mnist", "--config @/unknown.json", "must set options; got learning-rate, epochs; learning_rate; --help"),
    "settings that are cut off": ("stability", "--config @/broken.json", "broken.json must hold JSON; got an error; Mend it"),
    "settings in a list": ("birds", "--config @/list.json", "must hold an object of settings; got a list"),
    "settings under a heading": ("distorted_mnist", "--config @/nested.toml", "must set options; got training; --help"),
    "a writer that is not there": ("distorted_mnist", f"{DIGITS} --metrics-writer wandb", "metrics_writer must be MODULE:OBJECT; got 'wandb'; no colon"),
    "birds among digits": ("birds", "--data digits --out @/run", "expected one of drawn, cub:FOLDER; got 'digits'"),
    "birds that are missing": ("birds", "--data cub:@/absent --out @/run", "expected the folder of CUB-200-2011; got no such folder; name that folder"),
    "a class that is none": ("colocalisation", "--data npz:@/good.npz --digits 11 --out @/run", "digits must be classes of good, which are [0, 1]; got [11]"),
    "angles that do not divide": ("invariance", f"{DIGITS} --angle-step 7", "angle_step must divide max_angle, 90; got 7"),
    "signs without data": ("traffic_signs", "--out @/run", "--data; gtsrb:FOLDER; required"),
}  # fmt: skip

affine = stn.affine()


def connected(shape=(8, 8, 1), transform=affine):
    return stnn.FullyConnectedLocalization(shape, transform, rngs=nnx.Rngs(0))


def module(*arguments, **options):
    return stnn.SpatialTransformer(*(arguments or (connected(), affine)), **options)


def convolutional(shape):
    return stnn.ConvolutionalLocalization(shape, affine, rngs=nnx.Rngs(0))


CALLS = {
    "a batch where one image belongs": (lambda: stn.warp(np.zeros((2, 8, 8, 1)), affine, IDENTITY), "image must be [height, width, channels]; got shape (2, 8, 8, 1); jax.vmap"),
    "a volume where an image belongs": (lambda: stn.warp(VOLUME, affine, IDENTITY), "image must be [height, width, channels]; got shape (4, 4, 4, 1); for a volume; ndim=3"),
    "an image where a volume belongs": (lambda: stn.grid_sample(IMAGE, np.zeros((4, 4, 3), np.float32)), "image must be [depth, height, width, channels]; got shape (8, 8, 1); 2 coordinates"),
    "an image without channels": (lambda: stn.warp(IMAGE[..., 0], affine, IDENTITY), "image must be [height, width, channels]; got shape (8, 8); image[..., None]"),
    "a batch of theta": (lambda: stn.warp(IMAGE, affine, np.stack([IDENTITY] * 3)), "theta must have shape (6,); got shape (3, 6); jax.vmap"),
    "a matrix as theta": (lambda: stn.warp(IMAGE, affine, IDENTITY.reshape(2, 3)), "theta must have shape (6,); got shape (2, 3); theta.ravel()"),
    "a square matrix as theta": (lambda: stn.warp(IMAGE, affine, np.eye(3)), "theta must have shape (6,); got shape (3, 3); theta[:2].ravel()"),
    "a homography as theta": (lambda: stn.warp(IMAGE, stn.projective(), np.eye(3).ravel()), "theta must have shape (8,); got shape (9,); projective_theta"),
    "integers as theta": (lambda: stn.warp(IMAGE, affine, np.array([1, 0, 0, 0, 1, 0])), "theta must have a floating dtype; got int; Convert it"),
    "bytes as an image": (lambda: stn.warp(IMAGE.astype(np.uint8), affine, IDENTITY), 'image must have a floating dtype; got uint8; image.astype("float32")'),
    "a transform that is not made": (lambda: stn.warp(IMAGE, stn.affine, IDENTITY), "transform must be a Transform, such as stn_jax.affine(); got <function affine"),
    "the name of a transform": (lambda: stn.warp(IMAGE, "affine", IDENTITY), "transform must be a Transform, such as stn_jax.affine(); got 'affine'"),
    "PyTorch's name of a kernel": (lambda: stn.grid_sample(IMAGE, GRID, kernel="bilinear"), "kernel must be one of; 'linear'; got 'bilinear'; Here that is linear"),
    "PyTorch's name of a cubic kernel": (lambda: stn.grid_sample(IMAGE, GRID, kernel="bicubic"), "kernel must be one of; got 'bicubic'; stn_jax.cubic(a=-0.75)"),
    "PyTorch's name of a padding": (lambda: stn.grid_sample(IMAGE, GRID, padding="zeros"), "padding must be one of; got 'zeros'; Here that is constant"),
    "SciPy's name of a padding": (lambda: stn.grid_sample(IMAGE, GRID, padding="mirror"), "padding must be one of; got 'mirror'; Here that is reflection"),
    "the device as the engine": (lambda: stn.grid_sample(IMAGE, GRID, implementation="gpu"), "implementation must be one of; got 'gpu'; None"),
    "a grid of integers": (lambda: stn.grid_sample(IMAGE, GRID.astype(int)), "grid must have a floating dtype; got int; Convert it"),
    "one number as the output's shape": (lambda: stn.warp(IMAGE, affine, IDENTITY, output_shape=8), "output_shape must be a sequence of integers such as (height, width); got 8"),
    "channels in the output's shape": (lambda: stn.warp(IMAGE, affine, IDENTITY, output_shape=(8, 8, 1)), "output_shape must have 2 entries; got (8, 8, 1)"),
    "an empty output": (lambda: stn.warp(IMAGE, affine, IDENTITY, output_shape=(0, 8)), "output_shape must hold sizes of at least 1; got (0, 8)"),
    "a fill value for other channels": (lambda: stn.warp(IMAGE, affine, IDENTITY, fill_value=np.zeros(3)), "fill_value must be a scalar or one value for each of the 1 channels; got shape (3,)"),
    "a batch of matrices": (lambda: stn.affine_grid(np.zeros((2, 2, 3)), (8, 8)), "matrix must have shape (2, 3); got (2, 2, 3); jax.vmap"),
    "a square matrix": (lambda: stn.affine_grid(np.eye(3), (8, 8)), "matrix must have shape (2, 3); got (3, 3); matrix[:2]"),
    "PyTorch's size of a grid": (lambda: stn.affine_grid(np.eye(2, 3), (1, 1, 8, 8)), "matrix must have shape (4, 5); (1, 1, 8, 8); got (2, 3); without batch and channels"),
    "a shape with channels in a conversion": (lambda: conversions.matrix_from_pixels(np.eye(2, 3), (8, 8, 1), (8, 8)), "image_shape must hold the spatial sizes alone; got (8, 8, 1); (8, 8)"),
    "a homography in 3-D": (lambda: stn.projective(ndim=3), "projective exists for ndim = 2; got 3"),
    "a number of control points": (lambda: stn.thin_plate_spline(16), "shape must be a sequence of integers; got 16"),
    "points of another dimension": (lambda: affine.apply(IDENTITY, np.zeros((3, 3), np.float32)), "points must have a last axis of length 2; (x, y); got shape (3, 3)"),
    "the matrix of a spline": (lambda: stn.thin_plate_spline((3, 3)).matrix(np.zeros(18)), "thin_plate_spline transform has no matrix; use apply and invert"),
    "a chain of nothing": (stn.chain, "chain needs one or more transforms; got none"),
    "one image to a module": (lambda: module()(IMAGE), "images must have shape [batch, 8, 8, 1]; got (8, 8, 1); images[None]"),
    "grey images to a module": (lambda: module()(np.zeros((2, 8, 8), np.float32)), "images must have shape [batch, 8, 8, 1]; got (2, 8, 8); images[..., None]"),
    "channels first to a module": (lambda: module()(np.zeros((2, 1, 8, 8), np.float32)), "images must have shape [batch, 8, 8, 1]; got (2, 1, 8, 8); moveaxis(images, 1, -1)"),
    "images of another size": (lambda: module()(np.zeros((2, 9, 9, 1), np.float32)), "images must have shape [batch, 8, 8, 1]; got (2, 9, 9, 1); Resize"),
    "bytes to a module": (lambda: module()(np.zeros((2, 8, 8, 1), np.uint8)), 'image must have a floating dtype; got uint8; image.astype("float32")'),
    "a network for another transform": (lambda: module(connected(transform=stn.rigid()), affine)(IMAGE[None]), "localization must return theta of shape (1, 6); got (1, 3); same transform"),
    "a network that returns matrices": (lambda: module(lambda x: jnp.zeros((len(x), 2, 3)), affine)(IMAGE[None]), "localization must return theta of shape (1, 6); got (1, 2, 3); flat"),
    "transform and network exchanged": (lambda: module(affine, connected()), "localization must be callable, from images to theta; got <Transform affine"),
    "a network's input with the batch": (lambda: convolutional((4, 28, 28, 1)), "in_shape must be (height, width, channels); got (4, 28, 28, 1); Leave out the batch"),
    "a network's input without channels": (lambda: convolutional((28, 28)), "in_shape must be (height, width, channels); got (28, 28); give the channels"),
    "images too small for a network": (lambda: convolutional((4, 4, 1)), "in_shape (4, 4, 1) is too small; Use fewer convolutions"),
    "a start of another transform": (lambda: stnn.RegressionHead(4, affine, initial_theta=np.zeros(4), rngs=nnx.Rngs(0)), "initial_theta must have shape (6,); got (4,)"),
}  # fmt: skip


def saying(words):
    """The pattern of a message that holds these words, apart by "; ", in this order."""
    return "(?s)" + ".*?".join(map(re.escape, words.split("; ")))


def test_there_are_sixty_and_more():
    assert len(DATA) + len(COMMANDS) + len(CALLS) >= 60


@pytest.mark.parametrize(("source", "words"), DATA.values(), ids=DATA)
def test_mistakes_with_data(source, words, place):
    if source.startswith("tfds"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pytest.importorskip("tensorflow_datasets")
    with pytest.raises(ValueError, match=saying(words)):
        load(source.replace("@", str(place), 1))


@pytest.mark.parametrize(("room", "line", "words"), COMMANDS.values(), ids=COMMANDS)
def test_mistakes_with_commands(room, line, words, place, capsys):
    main = importlib.import_module(f"experiments.{room}.__main__").main
    try:
        status = main([word.replace("@", str(place)) for word in line.split()])
    except SystemExit as stopped:  # The parser's own errors.
        status = stopped.code
    printed = re.sub(r"[│|─\s]+", " ", capsys.readouterr().err)
    assert status == 2
    assert re.search(saying(words), printed), printed
    assert "Traceback" not in printed
    assert not (place / "run").exists()


@pytest.mark.parametrize(("call", "words"), CALLS.values(), ids=CALLS)
def test_mistakes_with_functions_and_modules(call, words):
    with pytest.raises((ValueError, TypeError), match=saying(words)):
        call()

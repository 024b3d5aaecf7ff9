"""Features for long trainings: accumulation, bfloat16, early stopping, TensorBoard, processes."""

import json
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from processes import environment
from tensorboardX.proto.event_pb2 import Event

from experiments import models
from experiments.classification.config import Arguments, Run
from experiments.classification.restore import run_of, trained_states
from experiments.classification.run import build_classifier, check_model, execute, load_dataset
from experiments.classification.step import make_classifier
from experiments.data.tasks import TASKS
from experiments.distorted_mnist import __main__ as distorted_mnist
from experiments.engine import early_stopping, prepare_folder
from experiments.engine import options as engine_options
from experiments.engine.devices import all_devices
from experiments.engine.metrics import MetricsLog
from experiments.engine.problem import State
from experiments.engine.step import initial_states, make_program

ROOT = Path(__file__).parents[3]
SHAPE = (12, 12, 1)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two classes of noise that differ in brightness."""
    rng = np.random.default_rng(0)
    labels = np.arange(96) % 2
    images = np.uint8(rng.integers(0, 100, (96, *SHAPE[:2])) + 120 * labels[:, None, None])
    path = tmp_path_factory.mktemp("data") / "noise.npz"
    np.savez(path, x_train=images[:64], y_train=labels[:64], x_test=images[64:], y_test=labels[64:])
    return f"npz:{path}"


def options(data, out, *more):
    return [
        *("--model", "fcn", "--width", "0.05", "--data", data, "--out", str(out)),
        *("--steps", "40", "--steps-per-dispatch", "2", "--batch-size", "8"),
        *more,
    ]


def small_run(data, **more):
    return Run(**{"model": "st-fcn", "data": data, "width": 0.02, "batch_size": 8} | more)


def trained(data, **more):
    """The state after three steps of plain descent, and the metrics, of an ST-FCN."""
    dataset = load_dataset(small_run(data))
    create = lambda rngs: models.build("st-fcn", "affine", SHAPE, 2, width=0.02, rngs=rngs)  # noqa: E731
    problem = make_classifier(create, optax.sgd(0.1), TASKS["R"], 8).problem
    program = make_program(problem, all_devices("jit", 8), **more)
    states, constants = initial_states(problem, [0])
    data, keys = (dataset.train.images, dataset.train.labels), jnp.stack([jax.random.key(0)])
    return program.run(states, constants, data, keys, 3)


def test_a_batch_in_parts_is_the_same_batch(data):
    whole, expected = trained(data)
    parts, metrics = trained(data, accumulate=4)
    for part, one in zip(jax.tree.leaves(parts), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(part, one, rtol=1e-5, atol=1e-6)
    assert metrics["theta"].shape == (1, 8, 6)
    for name, values in expected.items():
        # Norms are of the whole batch's gradient, not the mean of those of its parts.
        np.testing.assert_allclose(metrics[name], values, rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("parts", [3, 16, 0])
def test_parts_that_do_not_divide_the_batch_are_refused(parts):
    with pytest.raises(ValueError, match=f"accumulate must divide the batch size, 8; got {parts}"):
        Run(model="fcn", batch_size=8, accumulate=parts)


def test_parts_must_divide_what_a_device_works_on(data, monkeypatch):
    settings = Run(model="fcn", data=data, batch_size=8, accumulate=4)
    dataset = load_dataset(settings)
    assert check_model(settings, dataset) > 0
    four = all_devices("jit", 8)._replace(number=4)
    monkeypatch.setattr(engine_options, "all_devices", lambda form, batch_size: four)
    with pytest.raises(ValueError, match="each of the 4 devices works on, 2; got 4"):
        check_model(settings, dataset)


@pytest.mark.parametrize(
    "kind",
    [
        ("st-cnn", SHAPE),
        pytest.param(("st-deep-st-cnn", (24, 24, 1)), marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_bfloat16_is_what_layers_compute_in_and_nothing_else(kind, rng):
    name, shape = kind
    shape = (28, 28, 1) if name == "st-cnn" else shape
    model = models.build(name, "affine", shape, 2, width=0.1, rngs=nnx.Rngs(0))
    images = jnp.asarray(rng.uniform(size=(4, *shape)), jnp.float32)
    expected, _ = nnx.jit(lambda model: model.forward(images))(model)
    models.compute_in(model, "bfloat16")
    graph, params = nnx.split(model)

    def forward(params):
        return nnx.merge(graph, params).forward(images)

    logits, theta = jax.jit(forward)(params)
    assert logits.dtype == theta.dtype == jnp.float32
    # Eight bits of mantissa, through a few layers.
    np.testing.assert_allclose(logits, expected, atol=0.05 * np.abs(expected).max())
    assert not np.array_equal(logits, expected)
    grads = jax.jit(jax.grad(lambda params: forward(params)[0].sum()))(params)
    assert {leaf.dtype for leaf in jax.tree.leaves((params, grads))} == {jnp.dtype("float32")}
    program = str(jax.make_jaxpr(forward)(params))
    products = [line for line in program.splitlines() if "conv_general" in line or " dot_" in line]
    assert any("bf16" in line for line in products)
    # Coordinates: everything that is floored is in float32.
    assert not any("bf16" in line for line in program.splitlines() if "floor" in line)


def states(*values):
    weights = jnp.array(values, jnp.float32)
    return State(weights, (), jnp.arange(1, 1 + len(values)))


def test_the_best_state_of_each_seed_is_kept_until_it_has_waited():
    errors, waited = np.full(2, np.inf, np.float32), np.zeros(2, np.int32)
    nothing = early_stopping.Best(states(0, 0), errors, waited)
    progress = early_stopping.Progress(states(0, 0), nothing)
    measured = [(9, 7), (8, 7), (8, 6), (5, 5), (1, 9), (1, 9)]
    for number, errors in enumerate(measured, start=1):
        progress = progress._replace(states=states(number, 10 * number))
        progress = progress.with_errors(np.array(errors, float), 2)
    # The first fell at 1, 2, 4 and 5; the second at 1, 3 and 4, and then not twice.
    np.testing.assert_array_equal(progress.best.errors, [1, 5])
    np.testing.assert_array_equal(progress.best.waited, [1, 2])
    np.testing.assert_array_equal(progress.tested.params, [5, 40])
    run = Run(model="fcn", early_stopping=2, steps=100).schedule
    assert not progress.is_done(run, 6)
    assert progress.is_done(run, 100)
    late = progress._replace(states=states(9, 9))
    late = late.with_errors(np.array([3.0, 0.0]), 2)
    # A seed that is done does not change, so it ends as in a training of its own.
    np.testing.assert_array_equal(late.tested.params, [5, 40])
    assert late.is_done(run, 7)


def test_a_training_stops_early_and_tests_its_best_state(data, tmp_path):
    """With a rate of almost nothing the first measurement is the best."""
    out = tmp_path / "run"
    more = ("--early-stopping", "3", "--learning-rate", "1e-30", "--seeds", "0", "1")
    assert distorted_mnist.main(options(data, out, *more)) == 0
    result = json.loads((out / "result.json").read_text())
    assert result["tested_steps"] == [2, 2]
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert max(row["step"] for row in rows) == 8
    run = run_of(out)
    found = trained_states(run, out, build_classifier(run, load_dataset(run)))
    np.testing.assert_array_equal(found.step, [2, 2])


def test_early_stopping_needs_images_to_stop_by(data, tmp_path, capsys):
    more = ("--early-stopping", "3", "--validation", "0")
    assert distorted_mnist.main(options(data, tmp_path / "run", *more)) == 2
    assert "--early-stopping needs images to be held out" in capsys.readouterr().err
    with pytest.raises(ValueError, match="early_stopping must be at least 1; got 0"):
        Run(model="fcn", early_stopping=0)


def events_of(folder):
    """The scalars in TensorBoard's files, by name and step; framed as in TFRecord."""
    found = {}
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        while content:
            (size,) = struct.unpack("<Q", content[:8])
            event = Event.FromString(content[12 : 12 + size])
            content = content[16 + size :]
            if event.session_log.status:
                # A restart: TensorBoard drops what it has from there on.
                found = {key: value for key, value in found.items() if key[1] < event.step}
            for value in event.summary.value:
                found[value.tag, event.step] = value.simple_value
    return found


def test_events_say_what_the_lines_say_also_after_a_restart(data, tmp_path):
    out = tmp_path / "run"
    given = options(data, out, "--profile")
    append = MetricsLog.append

    def append_and_interrupt(log, row):
        append(log, row)
        if row["step"] == 20:
            signal.raise_signal(signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MetricsLog, "append", append_and_interrupt)
        assert distorted_mnist.main(given) == 130
    assert distorted_mnist.main([*given, "--resume"]) == 0
    found = events_of(out / "tensorboard" / "seed-0")
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 20
    for row in rows:
        for name in ("loss", "train_error", "validation_error"):
            assert found[name, row["step"]] == pytest.approx(row[name])
    traces = list((out / "profile").rglob("*.xplane.pb"))
    assert traces
    assert all(trace.stat().st_size > 1000 for trace in traces)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"process": 2, "num_processes": 2, "coordinator": "a:1"}, "process must be from 0 to 1"),
        ({"num_processes": 2}, "coordinator and num_processes go together"),
        ({"coordinator": "a:1"}, "coordinator and num_processes go together"),
        (
            {"coordinator": "a:1", "num_processes": 2, "distributed": True},
            "distributed takes the coordinator from the cluster; got coordinator a:1",
        ),
    ],
)
def test_processes_that_make_no_sense_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        Arguments(**given)


def start_two(given):
    """Two processes of two devices that train together."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{free.getsockname()[1]}"
    words = [*given, "--coordinator", coordinator, "--num-processes", "2", "--process"]
    return [
        subprocess.Popen(
            [sys.executable, "-m", "experiments.distorted_mnist", *words, str(number)],
            cwd=ROOT,
            env=environment(2),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]


@pytest.mark.slow
def test_two_processes_share_a_run_and_resume_it_after_a_kill(data, tmp_path):
    alone, out = tmp_path / "alone", tmp_path / "two"
    assert distorted_mnist.main(options(data, alone)) == 0
    both = start_two(options(data, out))
    metrics, deadline = out / "metrics.jsonl", time.monotonic() + 300
    while not (metrics.exists() and metrics.read_text().count("\n") >= 5):
        assert time.monotonic() < deadline
        assert both[0].poll() is None, both[0].communicate()[1]
        time.sleep(0.01)
    for process in both:
        process.kill()
        process.communicate()
    again = start_two(options(data, out, "--resume"))
    said = [process.communicate(timeout=300) for process in again]
    assert [process.returncode for process in again] == [0, 0], said
    # A signal to one process stops both.
    assert "report:" in said[0][0]
    assert "report:" not in said[1][0]
    results = [json.loads((folder / "result.json").read_text()) for folder in (alone, out)]
    assert results[0]["test_errors"] == results[1]["test_errors"]
    assert "4 device(s)" in results[1]["device"]
    losses = [
        [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (alone, out)
    ]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)


def test_execute_takes_a_profile_option_only_for_its_first_seeds(data, tmp_path):
    run = small_run(data, model="fcn", steps=2, steps_per_dispatch=2, seeds=(0, 1))
    prepare_folder(run, tmp_path / "run", resume=False, overwrite=False)
    execute(run, tmp_path / "run", load_dataset(run), profile=True)
    assert len(list((tmp_path / "run" / "profile").rglob("*.xplane.pb"))) == 1

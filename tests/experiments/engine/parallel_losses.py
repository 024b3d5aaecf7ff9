"""Losses of a short training, printed as JSON: run by tests in processes with other devices.

``parallel_losses.py FORM TASK STEPS [COORDINATOR PROCESSES PROCESS]``
"""

import json
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.ndimage

from experiments import models
from experiments.classification.step import make_classifier
from experiments.data.distortions import distorted_shape
from experiments.data.tasks import TASKS
from experiments.engine import devices
from experiments.engine.step import initial_states, make_program

BATCH = 16
# Operations of compiled programs that move numbers between devices.
COLLECTIVES = re.compile(
    r"\b(all-reduce|all-gather|all-to-all|collective-\w+|reduce-scatter)(?:-start)?\("
)


def main(form: str, task_name: str, steps: int) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 50)
    # Smooth images: on noise, rounding errors grow tenfold in a few steps.
    noise = scipy.ndimage.gaussian_filter(rng.normal(size=(50, 28, 28, 1)), (0, 4, 4, 0))
    images = np.uint8(255 * (noise - noise.min()) / np.ptp(noise))
    task = TASKS[task_name]
    in_shape = distorted_shape(task.distortion, images.shape[1:])
    kind = "st-fcn", "affine", in_shape, task.num_classes(4)
    create = lambda rngs: models.build(*kind, width=0.05, rngs=rngs)  # noqa: E731
    spread = devices.all_devices(form, BATCH)
    problem = make_classifier(create, optax.sgd(0.01), task, BATCH).problem
    program = make_program(problem, spread)
    states, constants = initial_states(problem, [0])
    keys = jnp.stack([jax.random.key(0)])
    placed = spread.replicate((states, constants, (images, labels), keys))
    state, *data = placed
    found = []
    if form == "jit":
        compiled = program.run.lower(state, *data, steps).compile().as_text()
        found = COLLECTIVES.findall(compiled)
    losses = []
    for _ in range(steps):
        state, metrics = program.run(state, *data, 1)
        losses.append(float(spread.to_host(metrics["loss"])[0]))
    print(json.dumps({"devices": spread.number, "losses": losses, "collectives": found}))


if __name__ == "__main__":
    if len(sys.argv) > 4:
        devices.start(sys.argv[4], int(sys.argv[5]), int(sys.argv[6]))
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))

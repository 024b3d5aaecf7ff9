"""A training step, compared with PyTorch: ``python -m benchmarks.train_step``.

It trains the ST-CNN and the ST-FCN of ``experiments/models`` by ``experiments/engine`` with Adam,
and the same layers in PyTorch. A step draws a batch from uint8 images and computes the loss, its
gradient and the update. A call has one step, or many; PyTorch synchronises after the same number. A
contender is timed if its logits, loss and gradients of all biases agree on one batch.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple, cast, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from benchmarks.harness import memory, records
from benchmarks.harness.contenders import Contender
from benchmarks.harness.rows import Candidate, measured_beside
from benchmarks.harness.unfinished import Planned
from benchmarks.peers import in_jax, in_torch, torch_models
from experiments import models
from experiments.classification.step import make_classifier
from experiments.data.tasks import TASKS
from experiments.engine import all_devices, initial_states, make_program

Name = Literal["st-cnn", "st-fcn"]
NAMES: tuple[Name, ...] = get_args(Name)
NUM_CLASSES = 10
LEARNING_RATE = 1e-3
# Tolerance of logits, loss and gradients, all computed without the reduced precision of
# accelerators' products. Rounding sometimes decides which pixel is the largest of its window, or in
# which cell of the image a point lies.
TOLERANCE = 1e-2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments(records.Options):
    """The options.

    Attributes:
      models: Models to train, with affine maps.
      batch_size: Images in a step.
      side: Height and width of an image.
      width: Factor on the filters and units of the classifier.
      steps_per_dispatch: Steps in a call of many steps.
      torch_compile: Whether to measure compiled PyTorch, too; not with ``--small``.
    """

    models: tuple[Name, ...] = NAMES
    batch_size: int = 256
    side: int = 28
    width: float = 1.0
    steps_per_dispatch: int = 10
    torch_compile: bool = True


class Training(NamedTuple):
    """A model and its training data."""

    name: models.ModelName
    in_shape: tuple[int, int, int]
    width: float
    batch_size: int
    steps: int
    images: np.ndarray
    labels: np.ndarray

    @classmethod
    def create(
        cls,
        name: Name,
        *,
        side: int = 28,
        width: float = 1.0,
        batch_size: int = 256,
        steps: int = 1,
        seed: int = 0,
    ) -> "Training":
        """Random images and labels."""
        rng = np.random.default_rng(seed)
        in_shape = (side, side, 1)
        images = rng.integers(0, 256, (4 * batch_size, *in_shape), np.uint8)
        labels = rng.integers(0, NUM_CLASSES, len(images))
        return cls(name, in_shape, width, batch_size, steps, images, labels)

    def create_model(self, rngs: nnx.Rngs) -> models.Model:
        """The model of the experiments."""
        return models.build(
            self.name, "affine", self.in_shape, NUM_CLASSES, width=self.width, rngs=rngs
        )

    def model_off_the_identity(self) -> models.Model:
        """A model with random theta, since the samples of an identity lie on kinks."""
        model: Any = self.create_model(nnx.Rngs(0))
        kernel = model.transformer.localization.head.linear.kernel
        noise = jax.random.normal(jax.random.key(1), kernel[...].shape)
        kernel[...] = 0.05 * noise
        return model

    def batch(self) -> tuple[jax.Array, jax.Array]:
        """The first images in [0, 1], and their labels."""
        images = self.images[: self.batch_size] / np.float32(255)
        return jnp.asarray(images), jnp.asarray(self.labels[: self.batch_size])


def ours(case: Training) -> Contender:
    """The engine's training of a number of steps, compiled."""
    problem = make_classifier(
        case.create_model, optax.adam(LEARNING_RATE), TASKS["none"], case.batch_size
    ).problem
    program = make_program(problem, all_devices("jit", case.batch_size))
    data = jnp.asarray(case.images), jnp.asarray(case.labels)
    keys = jnp.stack([jax.random.key(0)])
    states, constants = initial_states(problem, [0])
    compiled = cast(Any, program.run).lower(states, constants, data, keys, case.steps).compile()

    def run() -> object:
        nonlocal states
        # The compiled step donates the memory of the state that it gets.
        states, metrics = compiled(states, constants, data, keys)
        return jax.block_until_ready((states, metrics))

    return Contender(
        in_jax.OURS,
        run,
        functools.partial(_our_results, case),
        lambda: memory.of_jax(compiled),
        units=case.steps,
    )


def pytorch(
    name: str, case: Training, *, compiled: bool = False, layout: str = in_torch.LAYOUTS[0]
) -> Contender:
    """The same training in PyTorch."""
    import torch
    from torch.nn import functional

    where = in_torch.device()
    order = torch.contiguous_format if layout == in_torch.LAYOUTS[0] else torch.channels_last
    module = torch_models.from_flax(case.model_off_the_identity(), case.in_shape)
    module = module.to(where, memory_format=order)
    model = torch.compile(module, dynamic=False) if compiled else module
    optimizer = torch.optim.Adam(module.parameters(), lr=LEARNING_RATE)
    images = torch.tensor(np.moveaxis(case.images, -1, 1).copy(), device=where)
    labels = torch.tensor(case.labels, device=where)

    def loss_and_gradient(batch: Any, targets: Any) -> tuple[Any, Any]:
        logits = model(batch.float().div(255).contiguous(memory_format=order))
        loss = functional.cross_entropy(logits, targets)
        optimizer.zero_grad()
        loss.backward()
        return logits, loss

    def run() -> object:
        for _ in range(case.steps):
            chosen = torch.randint(len(images), (case.batch_size,), device=where)
            _, loss = loss_and_gradient(images[chosen], labels[chosen])
            optimizer.step()
        if where == "cuda":
            torch.cuda.synchronize()
        return loss

    def results() -> dict[str, np.ndarray]:
        first = slice(case.batch_size)
        _reduced_precision_in_torch(False)
        logits, loss = loss_and_gradient(images[first], labels[first])
        # During the timing PyTorch may round operands of products to TF32, as JAX does.
        _reduced_precision_in_torch(True)
        return {
            "logits": logits.detach().cpu().numpy(),
            "loss": loss.detach().cpu().numpy(),
            "gradient": torch_models.biases_of_torch(module),
        }

    def held() -> list[Any]:
        moments = [each for state in optimizer.state.values() for each in state.values()]
        gradients = [each.grad for each in module.parameters() if each.grad is not None]
        return [images, labels, *module.parameters(), *moments, *gradients]

    return Contender(name, run, results, lambda: memory.of_torch(run, held()), units=case.steps)


def candidates(case: Training, *, compiled: bool) -> Iterator[Candidate]:
    """Ours, then PyTorch's."""
    yield ours(case)
    if in_torch.device() is None:
        return
    for layout in in_torch.LAYOUTS:
        yield functools.partial(pytorch, f"PyTorch, {layout}", case, layout=layout)
        if compiled:
            yield functools.partial(
                pytorch, f"PyTorch compiled, {layout}", case, compiled=True, layout=layout
            )


def plan(arguments: Arguments) -> Iterator[Planned]:
    """A row for each model and number of steps in a call."""
    if arguments.small:
        arguments = dataclasses.replace(arguments, batch_size=8, width=0.1, torch_compile=False)
    # Each number of steps is compiled, so ``--small`` takes only one.
    numbers_of_steps = (2,) if arguments.small else (1, arguments.steps_per_dispatch)
    for name, steps in itertools.product(arguments.models, numbers_of_steps):
        labels: records.Row = {
            "model": name,
            "batch": arguments.batch_size,
            "width": arguments.width,
            "steps per dispatch": steps,
        }
        yield Planned(labels, functools.partial(_row, labels, name, steps, arguments))


def _row(labels: records.Row, name: Name, steps: int, arguments: Arguments) -> records.Row:
    case = Training.create(
        name,
        side=arguments.side,
        width=arguments.width,
        batch_size=arguments.batch_size,
        steps=steps,
        seed=arguments.seed,
    )
    every = candidates(case, compiled=arguments.torch_compile)
    row = measured_beside(labels, every, arguments, tolerance=TOLERANCE)
    in_torch.forget_compiled()
    return row


def main(command_line: Sequence[str] | None = None) -> list[records.Row]:
    """Prints the rows; saves them if ``--save`` is given."""
    return records.run_command("train_step", Arguments, __doc__, plan, command_line)


def _reduced_precision_in_torch(allowed: bool) -> None:
    """Lets matrix units of a GPU round float32 operands to TF32, or not."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def _our_results(case: Training) -> dict[str, np.ndarray]:
    """Logits, loss and gradients of the biases on one batch."""
    graph, params = nnx.split(case.model_off_the_identity())

    @functools.partial(jax.value_and_grad, has_aux=True)
    def loss(params: Any, images: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits = nnx.merge(graph, params)(images)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean(), logits

    with jax.default_matmul_precision("highest"):
        (value, logits), gradient = jax.jit(loss)(params, *case.batch())
    gradient = torch_models.biases(nnx.merge(graph, gradient))
    return {"logits": np.asarray(logits), "loss": np.asarray(value), "gradient": gradient}


if __name__ == "__main__":
    main()

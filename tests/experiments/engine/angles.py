"""A whole experiment on the engine: a small network regresses the angle of a bar."""

import dataclasses
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import stn_jax as stn
from experiments import engine
from experiments.report.page import build_page

HELD_OUT = jnp.linspace(-1, 1, 9)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments(engine.TrainingOptions, engine.Launch, engine.OutputFolder):
    """Regress the angle of a bar."""

    steps: int = 40
    batch_size: int = 8
    out: Path = Path("runs/angles")
    to_json = engine.as_json


def draw_bar(angle):
    x, y = jnp.moveaxis(stn.regular_grid((12, 12)), -1, 0)
    return jnp.exp(-20 * (x * jnp.sin(angle) - y * jnp.cos(angle)) ** 2).ravel()


def make_problem(batch_size, optimizer):
    def create(rngs):
        layers = nnx.Linear(144, 32, rngs=rngs), nnx.relu, nnx.Linear(32, 1, rngs=rngs)
        return nnx.Sequential(*layers)

    graph = nnx.graphdef(nnx.eval_shape(lambda: create(nnx.Rngs(0))))

    def error(params, angles):
        return nnx.merge(graph, params)(jax.vmap(draw_bar)(angles))[:, 0] - angles

    def evaluate(states, constants):
        errors = jax.vmap(lambda params: jnp.abs(error(params, HELD_OUT)).mean())(states.params)
        return {"validation_error": np.asarray(errors)}

    return engine.Problem(
        init=lambda seed: (nnx.state(create(nnx.Rngs(seed))), ()),
        loss=lambda params, constants, angles, key: ((error(params, angles) ** 2).mean(), {}),
        draw=lambda key, data, shard: shard(jax.random.uniform(key, (batch_size,), minval=-1)),
        **{"optimizer": optimizer, "batch_size": batch_size, "evaluate": evaluate},
    )


def train(given):
    given.check_training(given.batch_size, validates=True)
    engine.prepare_folder(given, given.out, resume=given.resume, overwrite=given.overwrite)
    problem = make_problem(given.batch_size, engine.adam_cosine(1e-2, given.steps))
    devices = engine.all_devices(given.parallel, given.batch_size)
    program = engine.make_program(problem, devices, accumulate=given.accumulate)
    lengths = {"steps": given.steps, "early_stopping": given.early_stopping}
    schedule = engine.Schedule(**lengths, steps_per_dispatch=5)
    errors = []
    with engine.open_session(given.out, key="seed", profile=given.profile) as session:
        for seeds in given.seed_groups:
            fitted = engine.fit(problem, program, schedule, session, seeds, name="bar")
            errors += problem.evaluate(*fitted)["validation_error"].tolist()
        lines = session.rows("bar", given.seeds)
    engine.write_json(given.out / "result.json", {"errors": errors})
    build_page(given.out, "Angles", [], {"bar": lines}, given.to_json())


def main(words=None):
    return engine.run_command("angles", Arguments, train, words)


if __name__ == "__main__":
    sys.exit(main())

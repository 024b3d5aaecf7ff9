"""The training of some seeds of a problem, from their last checkpoint to the end.

Metrics of one dispatch are written while the next one runs. The host waits for the device only when
held-out examples are measured and when a checkpoint is due.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array
from tqdm import tqdm

from experiments.engine.checkpoint import Checkpoints
from experiments.engine.devices import any_process, is_first, wait_for_all
from experiments.engine.early_stopping import initial_progress
from experiments.engine.feed import placed_ahead
from experiments.engine.problem import Problem, Schedule, State
from experiments.engine.reporter import Dispatch, Reporter
from experiments.engine.session import Session
from experiments.engine.signals import Interrupted
from experiments.engine.step import Program, initial_states

# ``advance(states, count)`` takes steps; its results may still be under way.
_Advance = Callable[[State, int], tuple[State, Any]]


class Fitted(NamedTuple):
    """The states to test and the constants, with a leading axis of seeds."""

    states: State
    constants: Any

    def of_seed(self, place: int) -> tuple[Any, Any]:
        """The parameters and the constants of one of the seeds."""
        params, constants = jax.tree.map(
            lambda each: each[place], (self.states.params, self.constants)
        )
        return params, constants


def fit(
    problem: Problem,
    program: Program,
    schedule: Schedule,
    session: Session,
    seeds: Sequence[int],
    *,
    name: str,
) -> Fitted:
    """Trains some seeds together.

    Args:
      problem: The functions and the data.
      program: Its compiled functions. Problems that differ in ``init``, data and measurements alone
        may share one program.
      schedule: The number of steps, and when to validate and to stop.
      session: The session of the output folder.
      seeds: The seeds.
      name: Names the training in messages and, unless the session tells trainings apart by seed
        alone, in metrics and checkpoints.

    Raises:
      Interrupted: If the user asked to stop; the state is saved.
      CheckpointError: If a checkpoint cannot be written, or none can be read.
    """
    devices, snapshots = program.devices, _of_group(problem, seeds)
    states, constants = initial_states(problem, seeds)
    keys = jnp.stack([jax.random.key(seed) for seed in seeds])
    title = f"{name}, seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
    with contextlib.closing(Checkpoints(session.checkpoints(name, seeds))) as checkpoints:
        progress = initial_progress(states, schedule)
        start, progress = checkpoints.resume(progress) or (0, progress)
        step, states = start, progress.states
        identities = [session.identify(name, seed) for seed in seeds]
        session.log.forget_after(identities, step)
        if snapshots is not None:
            snapshots.restore(step)
            if step == 0:
                snapshots.keep(_snapshot(problem, states, constants, seeds, step))
        if progress.is_done(schedule, step):
            return Fitted(progress.tested, constants)
        # Synchronise first: the first collective operation times out after half a minute.
        wait_for_all(title)
        resident, placed = devices.replicate(states), devices.replicate((constants, keys))
        # Leave ``disable`` unset in the first process, so that TQDM_DISABLE works.
        silent = {} if is_first() else {"disable": True}
        bar = tqdm(total=schedule.steps, initial=step, unit="step", desc=title, **silent)
        report = Reporter(session, name, seeds, problem, program.monitor, bar)
        profile = session.profile and session.log.has_only(identities)
        # Trace the second dispatch, when all is compiled, or the only one.
        second = start + schedule.steps_per_dispatch
        traced = second if second < schedule.steps else start
        with bar, _advance(problem, program, seeds, step, placed) as advance:
            while not progress.is_done(schedule, step):
                count = min(schedule.steps_per_dispatch, schedule.steps - step)
                with _trace(session, active=profile and step == traced) as wait:
                    resident, metrics = wait(advance(resident, count))
                states, metrics = devices.to_host((resident, metrics))
                step += count
                progress = progress._replace(states=states)
                snapshot = _snapshot(problem, states, constants, seeds, step)
                # Write the metrics of the previous dispatch while this one runs.
                report.write()
                measured = None
                if problem.evaluate is not None and schedule.is_validated(step):
                    measured = problem.evaluate(states, constants)
                    if "validation_error" in measured:
                        errors = measured["validation_error"]
                        progress = progress.with_errors(errors, schedule.early_stopping)
                report.take(Dispatch(step, count, metrics, measured, snapshot))
                stopping = any_process(session.stop["requested"])
                if stopping or checkpoints.are_due() or progress.is_done(schedule, step):
                    report.write()
                    if snapshots is not None:
                        snapshots.save()
                    checkpoints.save(step, progress)
                if stopping:
                    break
    if any_process(session.stop["requested"]):
        # Raise only here: closing ``checkpoints`` has put the checkpoint on the disk.
        raise Interrupted(f"{title}, step {step} of {schedule.steps}")
    return Fitted(progress.tested, constants)


def _of_group(problem: Problem, seeds: Sequence[int]) -> Any:
    """The problem's snapshots, if they follow one of these seeds."""
    snapshots = problem.snapshots
    return snapshots if snapshots is not None and snapshots.seed in seeds else None


def _snapshot(
    problem: Problem, states: State, constants: Any, seeds: Sequence[int], step: int
) -> Any:
    snapshots = _of_group(problem, seeds)
    if snapshots is None:
        return None
    return snapshots.take(step, *Fitted(states, constants).of_seed(seeds.index(snapshots.seed)))


@contextlib.contextmanager
def _advance(
    problem: Problem,
    program: Program,
    seeds: Sequence[int],
    start: int,
    constants_and_keys: tuple[Any, Array],
) -> Iterator[_Advance]:
    """The function that takes steps, on resident data or on batches from the host."""
    constants, keys = constants_and_keys
    if problem.batches is None:
        data = program.devices.replicate(problem.data)
        yield lambda states, count: program.run(states, constants, data, keys, count)
        return
    with contextlib.ExitStack() as stack:
        feeds = []
        for seed in seeds:
            from_host = problem.batches(seed, start)
            feed = placed_ahead(from_host, program.devices.put_batch)
            feeds.append(stack.enter_context(contextlib.closing(feed)))

        def advance(states: State, count: int) -> tuple[State, list[Any]]:
            each = []
            for _ in range(count):
                batches = tuple(next(feed) for feed in feeds)
                states, metrics = program.step(states, constants, batches, keys)
                # Do not read the metrics yet, so that the host runs ahead of the device.
                each.append(metrics)
            return states, each

        yield advance


@contextlib.contextmanager
def _trace(session: Session, *, active: bool) -> Iterator[Callable[[Any], Any]]:
    """Traces a dispatch if ``active``; gives a function that then waits for the results."""
    if not active:
        yield lambda results: results
        return
    with jax.profiler.trace(str(session.folder / "profile")):
        yield jax.block_until_ready

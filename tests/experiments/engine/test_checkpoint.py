"""Checkpoints: exact resume; half-written and damaged ones are recognised."""

import subprocess
import sys
import textwrap
from contextlib import closing
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.engine.checkpoint import (
    CheckpointError,  # noqa: F401
    Checkpoints,
    OtherStateError,
)

ROOT = Path(__file__).parents[3]


def state_after(step):
    weights = np.random.default_rng(step).normal(size=(64, 64)).astype(np.float32)
    return {"params": jnp.asarray(weights), "step": jnp.asarray(step, jnp.int32)}


@pytest.fixture
def folder(tmp_path):
    """With the checkpoints of steps 1, 2 and 3, of which the last two are kept."""
    with closing(Checkpoints(tmp_path / "checkpoints")) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, state_after(step))
    return tmp_path / "checkpoints"


def resume(folder):
    with closing(Checkpoints(folder)) as checkpoints:
        return checkpoints.resume(state_after(0))


def spoil(checkpoint, change):
    """Changes the largest file of a checkpoint, which holds its numbers."""
    path = max((each for each in checkpoint.rglob("*") if each.is_file()), key=file_size)
    path.write_bytes(change(path.read_bytes()))


def file_size(path):
    return path.stat().st_size


CHANGES = {
    "cut short": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "one bit": lambda content: (
        content[: len(content) // 2]
        + bytes([content[len(content) // 2] ^ 4])
        + content[len(content) // 2 + 1 :]
    ),
}


def test_the_last_is_resumed_bit_for_bit(folder):
    step, state = resume(folder)
    assert step == 3
    for name, expected in state_after(3).items():
        np.testing.assert_array_equal(state[name], expected)
        assert state[name].dtype == expected.dtype
        assert isinstance(state[name], jax.Array)


def test_without_any_there_is_nothing_to_resume(tmp_path):
    assert resume(tmp_path / "none") is None


def test_two_are_kept(folder):
    assert sorted(path.name for path in folder.iterdir() if path.name.isdigit()) == ["2", "3"]


def test_the_state_may_be_given_away_while_it_is_written(tmp_path):
    double = jax.jit(lambda state: jax.tree.map(lambda a: 2 * a, state), donate_argnums=0)
    with closing(Checkpoints(tmp_path)) as checkpoints:
        state = state_after(1)
        checkpoints.save(1, state)
        for _ in range(20):
            state = double(state)
        np.testing.assert_array_equal(
            checkpoints.resume(state_after(0))[1]["params"], state_after(1)["params"]
        )


def test_every_dtype_is_kept_bit_for_bit(tmp_path, rng):
    state = {
        name: jnp.asarray(rng.normal(size=(3, 2)) * 50, name)
        for name in ("bfloat16", "float16", "int8", "uint8", "float8_e4m3fn")
    }
    state |= {"number": jnp.asarray(3, jnp.bfloat16), "key": jax.random.key(4)}
    with closing(Checkpoints(tmp_path)) as checkpoints:
        checkpoints.save(1, state)
        _, found = checkpoints.resume(jax.tree.map(jnp.zeros_like, state))
    for name, expected in state.items():
        assert found[name].dtype == expected.dtype
        assert (found[name] == expected).all()


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"params": jnp.zeros((64, 65))}, r"\['params'\] expected float32\[64, 65\], got"),
        (
            {"params": jnp.zeros((64, 64), jnp.bfloat16)},
            r"\['params'\] expected bfloat16\[64, 64\], got float32\[64, 64\]",
        ),
        ({"more": jnp.zeros(3)}, r"\['more'\] expected float32\[3\], got none"),
    ],
)
def test_the_state_of_another_training_is_told_apart_from_damage(folder, other, message):
    with (
        closing(Checkpoints(folder)) as checkpoints,
        pytest.raises(OtherStateError, match=f"{folder / '3'} is of another state: at {message}"),
    ):
        checkpoints.resume(state_after(0) | other)
    # Nothing was set aside.
    assert resume(folder)[0] == 3


def in_a_process(program, folder):
    """Runs a program on a folder, apart from the tests: a read that fails leaves coroutines behind
    in Orbax, which complain whenever they are collected."""
    given = "import sys; from pathlib import Path; sys.path[:0] = ['tests/experiments/engine']\n"
    given += "from test_checkpoint import *; folder = Path(sys.argv[1])\n"
    command = [sys.executable, "-c", given + textwrap.dedent(program), str(folder)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(
    "change",
    [pytest.param(each, marks=[pytest.mark.slow] * (each != "one bit")) for each in CHANGES],
)
def test_a_damaged_one_is_set_aside_and_the_one_before_it_used(folder, change):
    # As if one of that step had been set aside before.
    (folder / "3.damaged").mkdir()
    (folder / "3.damaged" / "old").touch()
    spoil(folder / "3", CHANGES[change])
    program = """
        with closing(Checkpoints(folder)) as checkpoints:
            step, state = checkpoints.resume(state_after(0))
            assert step == 2
            np.testing.assert_array_equal(state["params"], state_after(2)["params"])
            # The checkpoint of the repeated training replaces it.
            checkpoints.save(3, state_after(3))
        """
    ended = in_a_process(program, folder)
    assert ended.returncode == 0, ended.stderr
    assert str(folder / "3") in ended.stderr
    assert "going on from step 2" in ended.stderr
    assert resume(folder)[0] == 3
    assert (folder / "3.damaged").is_dir()
    assert not (folder / "3.damaged" / "old").exists()


def test_a_half_written_one_is_not_taken_for_whole(folder):
    half = folder / "4.orbax-checkpoint-tmp-0"
    (folder / "3").rename(half)
    assert resume(folder)[0] == 2


def test_with_none_whole_they_are_named_and_nothing_is_lost(folder):
    for step in ("2", "3"):
        spoil(folder / step, CHANGES["cut short"])
    ended = in_a_process("resume(folder)", folder)
    assert "CheckpointError" in ended.stderr
    assert f"delete {folder} to train again" in ended.stderr
    assert all(f"checkpoint {folder / step} cannot be read" in ended.stderr for step in ("2", "3"))
    assert {"2", "3"} <= {path.name for path in folder.iterdir()}


def test_a_full_disk_leaves_the_last_good_one(folder):
    """A limit on the size of files stands for a full disk: both fail in the middle of a write."""
    program = """
        import resource

        checkpoints = Checkpoints(folder)
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
        try:
            checkpoints.save(4, state_after(4))
            checkpoints.close()
        except CheckpointError as error:
            print(error)
        """
    said = in_a_process(program, folder).stdout
    assert f"a checkpoint cannot be written to {folder}" in said
    assert "that of step 3 is whole" in said
    assert "Make room" in said
    step, state = resume(folder)
    assert step == 3
    np.testing.assert_array_equal(state["params"], state_after(3)["params"])

"""How commands join other processes, and how they end."""

import jax
import pytest

from experiments.engine import Interrupted, Launch, run_command


@pytest.fixture
def joined(monkeypatch):
    """The arguments with which JAX was asked to join other processes."""
    calls, before = [], jax.config.jax_cpu_collectives_implementation
    monkeypatch.setattr(jax.distributed, "initialize", lambda *given: calls.append(given))
    yield calls
    jax.config.update("jax_cpu_collectives_implementation", before)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], []),
        (["--distributed"], [()]),
        (
            ["--coordinator", "host:1", "--num-processes", "3", "--process", "2"],
            [("host:1", 3, 2)],
        ),
    ],
)
def test_processes_are_joined_before_anything_is_computed(joined, words, expected):
    seen = []
    assert run_command("program", Launch, lambda _: seen.append(list(joined)), words) == 0
    assert seen == [expected]


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (Interrupted("seed 0, step 3 of 9"), 130, "stopped at seed 0, step 3 of 9; the same"),
        (ValueError("width must be positive"), 2, "error: width must be positive"),
        (OSError("No space left on device"), 2, "error: No space left"),
    ],
)
def test_a_command_ends_with_a_line_and_a_status(error, status, message, capsys):
    def body(_):
        raise error

    assert run_command("program", Launch, body, []) == status
    assert message in capsys.readouterr().err

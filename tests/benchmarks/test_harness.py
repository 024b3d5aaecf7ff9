"""The harness of the benchmarks: turns, budgets, ratios, admission of contenders, imports."""

import ast
import functools
import json
import math
import os
import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks import harness
from benchmarks.harness import openmp, records, timing, unfinished
from benchmarks.harness.contenders import Contender, Skipped
from benchmarks.harness.rows import admitted

OURS = "stn_jax"


class Clock:
    """A clock that only contenders advance."""

    def __init__(self):
        self.now, self.calls = 0.0, []

    def __call__(self):
        return self.now

    def contender(self, name, *seconds):
        """Each call takes the next given time; further calls take the last one."""
        remaining = list(seconds)

        def run():
            self.calls.append(name)
            self.now += remaining.pop(0) if len(remaining) > 1 else remaining[0]

        return run


@pytest.fixture
def clock():
    return Clock()


def test_the_first_call_is_not_timed(clock):
    runs = {"ours": clock.contender("ours", 99.0, 0.2)}
    seconds = timing.measure(runs, timing.Budget(seconds=9, rounds=4, least=4), clock=clock)
    np.testing.assert_allclose(seconds["ours"], [0.2] * 4)


def test_contenders_take_turns_in_an_order_that_the_seed_decides(clock):
    names = ("a", "b", "c")

    def rounds(seed):
        clock.calls.clear()
        runs = {name: clock.contender(name, 0.1) for name in names}
        budget = timing.Budget(seconds=1e9, rounds=20)
        timing.measure(runs, budget, seed=seed, clock=clock, warm_up=False)
        return [tuple(clock.calls[i : i + 3]) for i in range(0, 60, 3)]

    orders = rounds(0)
    assert all(sorted(order) == list(names) for order in orders)
    assert len(set(orders)) > 2
    assert orders == rounds(0) != rounds(1)


def test_a_short_call_is_made_untimed_and_then_several_times(clock):
    runs = {"short": clock.contender("short", 1e-3), "long": clock.contender("long", 1.0)}
    budget = timing.Budget(seconds=1e9, rounds=2, least=2)
    seconds = timing.measure(runs, budget, clock=clock)
    assert clock.calls.count("short") == 2 + 2 * (1 + 5)
    assert clock.calls.count("long") == 2 + 2
    np.testing.assert_allclose(seconds["short"], [1e-3] * 2)


def test_the_budget_ends_the_rounds(clock):
    budget = timing.Budget(seconds=10, rounds=100, least=3)
    for each, expected in ((1.0, 10), (3.0, 4), (0.05, 100)):
        runs = {"ours": clock.contender("ours", each)}
        seconds = timing.measure(runs, budget, clock=clock)
        assert len(seconds["ours"]) == expected


def test_a_very_slow_contender_has_one_turn_and_is_compared_within_it(clock):
    runs = {"ours": clock.contender("ours", 0.1), "slow": clock.contender("slow", 60.0)}
    seconds = timing.measure(runs, timing.Budget(seconds=10, least=5), clock=clock)
    assert len(seconds["ours"]) == 5
    assert len(seconds["slow"]) == 1
    assert timing.ratio(seconds["slow"], seconds["ours"]).median == pytest.approx(600)


def test_the_policy_of_openmp_is_the_users_or_the_faster(monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    assert openmp.choose_policy(2, try_both=True) == "active"
    for is_faster, expected in ((True, "default"), (False, "passive")):
        monkeypatch.delenv("OMP_WAIT_POLICY")
        monkeypatch.setattr(openmp, "_faster_by_default", lambda threads, it=is_faster: it)
        assert openmp.choose_policy(2, try_both=True) == expected
        # Threads that spin need time to stop.
        assert (openmp.pause() > 0) == is_faster
        monkeypatch.setenv("OMP_WAIT_POLICY", "passive")


def test_spreads_and_ratios():
    spread = timing.Spread.of(np.array([4.0, 1.0, 3.0, 2.0, 5.0]))
    assert spread == (3.0, 1.0, 2.0, 4.0, 5)
    assert spread.interquartile == 2
    # Both are twice as slow in the second round: the ratio does not see it.
    seconds = {"ours": np.array([1.0, 2.0]), "peer": np.array([3.0, 6.0]), "copy": np.ones(2)}
    row = timing.compare(seconds, "ours", apart=("copy",))
    assert row["best_peer"] == "peer"
    assert row["ratios"] == {"peer": timing.Spread(3, 3, 3, 3, 2)._asdict()}
    fraction = timing.copy_fraction(seconds, "ours", bytes_moved=30, copy="copy", copied=20)
    assert fraction["minimum"] == pytest.approx(30 / 2 / 20)
    alone = timing.compare({"ours": np.ones(2)}, "ours")
    assert (alone["best_peer"], alone["ratios"]) == (None, {})


def test_what_disagrees_or_fails_is_not_timed():
    def contender(name, value):
        return Contender(name, lambda: None, lambda: {"value": np.array(value)}, lambda: None)

    def broken():
        raise RuntimeError("no such thing\nand more")

    candidates = [
        contender(OURS, [1.0, 2.0]),
        contender("same", [1.0, 2.0005]),
        contender("different", [1.0, 2.1]),
        contender("not finite", [1.0, math.nan]),
        contender("smaller", [1.0]),
        contender("broken", [1.0, 2.0])._replace(results=broken),
        Skipped("absent", "it is not here"),
    ]
    contenders, skipped = admitted(candidates, tolerance=1e-3)
    assert [each.name for each in contenders] == [OURS, "same"]
    assert set(skipped) == {"different", "not finite", "smaller", "broken", "absent"}
    assert skipped["broken"] == "RuntimeError: no such thing"
    assert "shape (1,)" in skipped["smaller"]
    with pytest.raises(RuntimeError, match="no such thing"):
        admitted([contender(OURS, [1.0])._replace(results=broken)], tolerance=1e-3)


def imported(path):
    """The modules that a file imports, at any place in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, path
            yield node.module


def test_the_harness_imports_nothing_of_this_project_but_itself():
    files = list(Path(harness.__file__).parent.glob("*.py"))
    assert len(files) > 5
    for path in files:
        for name in imported(path):
            root = name.partition(".")[0]
            assert root not in ("stn_jax", "experiments", "examples", "docs", "tests"), (path, name)
            if root == "benchmarks":
                assert name.startswith("benchmarks.harness"), (path, name)


# Measurements that are stopped.


class Stops:
    """Rows of a plan; measuring the one of this number is interrupted."""

    def __init__(self, at=None):
        self.at, self.measured = at, []

    def plan(self, arguments):
        for number in range(4):
            yield unfinished.Planned({"number": number}, functools.partial(self.measure, number))

    def measure(self, number):
        if number == self.at:
            raise KeyboardInterrupt
        self.measured.append(number)
        return {"square": number**2}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs a command with these rows and words; it saves them."""
    monkeypatch.setattr(openmp, "_faster_by_default", lambda threads: True)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    save = tmp_path / "squares.json"

    def run(rows, *words, finish=lambda arguments, rows: None):
        words = [*words, "--save", str(save)]
        return records.run_command("squares", records.Options, "", rows.plan, words, finish)

    run.save, run.unfinished = save, unfinished.path_of(save)
    return run


def test_a_stopped_measurement_goes_on_with_the_rows_that_are_missing(run, capsys, monkeypatch):
    with pytest.raises(SystemExit) as stopped:
        run(Stops(at=2))
    assert stopped.value.code == 130
    assert not run.save.exists()
    assert [row["square"] for row in json.loads(run.unfinished.read_text())["rows"]] == [0, 1]
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.splitlines()[-1] == "Stopped; the same command goes on."
    assert re.search(r"^row 3 of 4, about \d+ s left$", told.err, re.M)
    # It goes on with the policy that was the faster one at the start.
    monkeypatch.setattr(openmp, "_faster_by_default", lambda threads: False)
    rest, seen = Stops(), []
    rows = run(rest, finish=lambda arguments, rows: seen.append(rows))
    assert rest.measured == [2, 3]
    assert rows == seen[0] == [{"number": n, "square": n**2} for n in range(4)]
    assert "2 of 4 rows are taken from" in capsys.readouterr().err
    record = json.loads(run.save.read_text())
    assert record["rows"] == rows
    assert record["environment"]["omp_wait_policy"] == "default"
    assert len(record["environment"]["went_on"]) == 1
    assert not run.unfinished.exists()
    # A finished measurement is made anew.
    again = Stops()
    run(again)
    assert again.measured == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("words", "change", "said"),
    [
        (["--rounds", "5"], {}, "settings.rounds"),
        (["--small"], {}, "small, settings.small"),
        ([], {"processor": "another"}, "environment.processor"),
        ([], {"versions": {"jax": "2"}}, "environment.versions.jax"),
    ],
)
def test_a_measurement_of_another_kind_starts_over(run, capsys, monkeypatch, words, change, said):
    here = {"processor": "abacus", "time": "now", "versions": {"jax": "1"}}
    monkeypatch.setattr(records, "environment", lambda: dict(here))
    with pytest.raises(SystemExit):
        run(Stops(at=3))
    monkeypatch.setattr(records, "environment", lambda: here | change)
    anew = Stops()
    run(anew, *words)
    assert anew.measured == [0, 1, 2, 3]
    assert f"has other {said}: all rows are measured anew" in capsys.readouterr().err


@pytest.mark.parametrize("contents", ['{"rows": [', "", "[]", "\x00"])
def test_a_measurement_whose_rows_cannot_be_read_starts_over(run, capsys, contents):
    run.unfinished.write_text(contents)
    anew = Stops()
    run(anew)
    assert anew.measured == [0, 1, 2, 3]
    assert re.search("unfinished .*all rows are measured anew", capsys.readouterr().err, re.I)
    assert not run.unfinished.exists()


def test_two_commands_do_not_write_the_same_file(run, tmp_path):
    pytest.importorskip("fcntl", reason="Windows has no locks of this kind")
    lock = tmp_path / "squares.json.lock"

    class Second(Stops):
        def measure(self, number):
            with pytest.raises(SystemExit, match=rf"process {os.getpid()}\. Wait for it, or name"):
                run(inner)
            return super().measure(number)

    inner, outer = Stops(), Second()
    run(outer)
    assert outer.measured == [0, 1, 2, 3]
    assert inner.measured == []
    assert not lock.exists()
    # The lock of a process that was killed is left as a file alone.
    lock.write_text("123")
    with pytest.raises(SystemExit, match="130"):
        run(Stops(at=2))
    run(inner)
    assert inner.measured == [2, 3]


def test_nothing_is_kept_without_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    with pytest.raises(SystemExit):
        records.run_command("squares", records.Options, "", Stops(at=1).plan, [])
    assert list(tmp_path.iterdir()) == []

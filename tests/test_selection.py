"""The quick tests, the thorough ones and the slow ones, and parts of those."""

import ast
import collections
from types import SimpleNamespace

import pytest
import selection
from processes import ROOT


class Case:
    path = "tests/test_laws.py"

    def __init__(self, law, n, *marks, **parameters):
        self.originalname, self.n, self.marks = f"test_{law}", n, list(marks)
        self.nodeid = f"{self.path}::test_{law}[{'-'.join(map(str, parameters.values()))}]"
        self.callspec = SimpleNamespace(params=parameters)

    def get_closest_marker(self, name):
        if name == "cross_section":
            return SimpleNamespace(args=(self.n,)) if self.n else None
        return name in self.marks or None

    def add_marker(self, mark):
        self.marks.append(mark.name)


def select(items, part=None):
    """Runs the hook, in which pytest selects by marks; returns what is left."""
    config = SimpleNamespace(
        getoption=lambda _: part, hook=SimpleNamespace(pytest_deselected=lambda items: None)
    )
    items = list(items)
    hook = selection.pytest_collection_modifyitems(config, items)
    next(hook)
    with pytest.raises(StopIteration):
        hook.send(None)
    return items


def met(cases):
    return set().union(*map(selection.features, cases))


@pytest.mark.parametrize(("laws", "members", "n"), [(5, 40, 7), (30, 3, 4), (1, 9, 20), (4, 6, 1)])
def test_quick_and_gate_meet_every_law_and_every_value(laws, members, n):
    cases = [
        Case(law, n, member=member, dtype=dtype)
        for law in range(laws)
        for member in range(members)
        for dtype in ("float32", "bfloat16")
    ]
    select(cases)
    gate = [case for case in cases if "slow" not in case.marks]
    quick = [case for case in gate if "thorough" not in case.marks]
    assert met(cases) == met(gate) == met(quick)
    assert len(gate) <= len(cases) / n + laws + members
    assert max(laws, members) <= len(quick) <= laws + members + 2
    assert all(len(case.marks) <= 1 for case in cases)


@pytest.fixture
def listing(tmp_path, monkeypatch):
    """A function that makes a list of these lines the list of the thorough tests."""

    def write(*lines):
        monkeypatch.setattr(selection, "LIST", tmp_path / "thorough.txt")
        selection.LIST.write_text("# A comment.\n" + "".join(f"{line}\n" for line in lines))

    return write


@pytest.mark.parametrize(("ending", "first"), [("", ["thorough"]), ("[...]", [])])
def test_a_listed_test_is_thorough_unless_it_is_slow(listing, ending, first):
    listing(f"{Case.path}::test_0{ending}")
    slow, *cases = [Case(0, None, "slow", k=0), *(Case(0, None, k=k) for k in (1, 2, 3))]
    other = Case(1, None)
    select([slow, *cases, other])
    assert [case.marks for case in cases] == [first, ["thorough"], ["thorough"]]
    assert (slow.marks, other.marks) == (["slow"], [])


def test_quick_cases_meet_what_the_listed_tests_do_not(listing):
    listing(f"{Case.path}::test_0")
    cases = [Case(law, 2, k=k) for law in range(3) for k in range(8)]
    select(cases)
    assert [case.marks for case in cases[:8]] == [["thorough"], ["slow"]] * 4
    rest = [case for case in cases[8:] if "slow" not in case.marks]
    assert met(case for case in rest if not case.marks) == met(rest)


def test_what_takes_longer_is_listed(listing):
    listing("tests/a.py::x[...]", "tests/c.py::x")
    seconds = {
        "tests/a.py::x[1]": 7.0,
        "tests/a.py::x[2]": 6.0,
        "tests/a.py::y[1]": 4.0,
        "tests/a.py::y[2]": 3.0,
        "tests/a.py::z": 5.0,
        "tests/b.py::x": 9.0,
        "tests/b.py::y": 6.0,
        "tests/d.py::x[1]": 6.0,
        "tests/d.py::x[2]": 7.0,
        "stn_jax/a.py::stn_jax.a.f": 6.0,
        "stn_jax/b.py::stn_jax.b.f": 5.0,
    }
    selection.add_to_list(selection.too_long(seconds, 5))
    assert selection.LIST.read_text().splitlines() == [
        "# A comment.",
        "stn_jax/a.py::stn_jax.a.f",
        "tests/a.py::x",
        "tests/a.py::y[...]",
        "tests/b.py::x",
        "tests/c.py::x",
        "tests/d.py::x[...]",
    ]


def test_listed_tests_exist_and_every_file_keeps_a_quick_one():
    files = collections.defaultdict(set)
    for line in selection.listed():
        path, _, test = line.partition("::")
        files[path].add(test)
    for path, tests in files.items():
        body = ast.parse((ROOT / path).read_text()).body
        names = {each.name for each in body if isinstance(each, ast.FunctionDef | ast.ClassDef)}
        assert {test.removesuffix("[...]").rpartition(".")[2] for test in tests} <= names, path
        if path.startswith("tests/"):
            # A name with [...] is not among them: its first case is quick.
            assert not tests >= {each for each in names if each.startswith("test_")}, path


def test_parts():
    assert selection._part("2/7") == (2, 7)
    for wrong in ("7/7", "-1/7", "1"):
        with pytest.raises(ValueError, match=r"K must be|unpack"):
            selection._part(wrong)


def test_parts_of_files_are_disjoint_and_together_everything():
    items = [
        SimpleNamespace(path=f"{k % 5}.py", nodeid="", get_closest_marker=lambda _: None)
        for k in range(20)
    ]
    parts = [select(items, (k, 3)) for k in range(3)]
    assert all(len({item.path for item in part}) in (1, 2) for part in parts)
    found = [item for part in parts for item in part]
    assert sorted(map(id, found)) == sorted(map(id, items))

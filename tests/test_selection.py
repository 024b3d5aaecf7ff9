"""The quick cross-section of many cases, and parts of the slow tests."""

from types import SimpleNamespace

import pytest
import selection


class Case:
    def __init__(self, law, n, **parameters):
        self.originalname, self.n, self.marks = law, n, []
        self.callspec = SimpleNamespace(params=parameters)

    def get_closest_marker(self, name):
        return SimpleNamespace(args=(self.n,))

    def add_marker(self, mark):
        self.marks.append(mark.name)


def quick(cases):
    selection.mark_all_but_a_cross_section(cases)
    return [case for case in cases if "slow" not in case.marks]


@pytest.mark.parametrize(("laws", "members", "n"), [(5, 40, 7), (30, 3, 4), (1, 9, 20)])
def test_a_cross_section_meets_every_law_and_every_value(laws, members, n):
    cases = [
        Case(law, n, member=member, dtype=dtype)
        for law in range(laws)
        for member in range(members)
        for dtype in ("float32", "bfloat16")
    ]
    kept = quick(cases)
    assert {case.originalname for case in kept} == set(range(laws))
    assert {case.callspec.params["member"] for case in kept} == set(range(members))
    assert {case.callspec.params["dtype"] for case in kept} == {"float32", "bfloat16"}
    assert len(kept) <= len(cases) / n + laws + members


def test_parts():
    assert selection._part("2/7") == (2, 7)
    for wrong in ("7/7", "-1/7", "1"):
        with pytest.raises(ValueError, match=r"K must be|unpack"):
            selection._part(wrong)


def test_parts_of_files_are_disjoint_and_together_everything():
    items = [
        SimpleNamespace(path=f"{k % 5}.py", get_closest_marker=lambda _: None) for k in range(20)
    ]
    found = []
    for k in range(3):
        config = SimpleNamespace(
            getoption=lambda _, k=k: (k, 3),
            hook=SimpleNamespace(pytest_deselected=lambda items: None),
        )
        part = list(items)
        hook = selection.pytest_collection_modifyitems(config, part)
        next(hook)
        with pytest.raises(StopIteration):
            hook.send(None)
        assert len({item.path for item in part}) in (1, 2)
        found += part
    assert sorted(map(id, found)) == sorted(map(id, items))

"""Which tests are quick, which the gate runs as well, and parts of those that take hours.

``make test`` runs the quick tests, ``make test-all`` those marked ``thorough`` as well, and ``make
test-slow`` those marked ``slow``.

A module, or a test, with ``pytest.mark.cross_section(n)`` has too many cases: about one in ``n`` is
kept, and the others are slow. Of those kept, the fewest that meet each test and each value of each
parameter are quick, and the others thorough. So are the tests that ``thorough.txt`` lists, since
they take longest: ``--list-thorough SECONDS`` adds to the list what takes longer.

``--part K/N`` selects every ``N``-th file of the selected tests from the ``K``-th on; ``N`` parts
are all of them.
"""

import collections
from pathlib import Path

import pytest

LIST = Path(__file__).with_name("thorough.txt")


def pytest_addoption(parser):
    parser.addoption(
        "--part",
        metavar="K/N",
        type=_part,
        help="every N-th file of the selected tests from the K-th",
    )
    parser.addoption(
        "--list-thorough",
        metavar="SECONDS",
        type=float,
        help="add tests of which all cases together take longer than this to tests/thorough.txt",
    )


def _part(text):
    k, n = map(int, text.split("/"))
    if not 0 <= k < n:
        raise ValueError(f"K must be at least 0 and below N; got {text}")
    return k, n


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(config, items):
    modules = collections.defaultdict(list)
    for item in items:
        if item.get_closest_marker("cross_section") and not item.get_closest_marker("slow"):
            modules[item.path].append(item)
    for module in modules.values():
        mark(module, "slow", but=cross_section(module))
    mark_listed([item for item in items if not item.get_closest_marker("slow")])
    for module in modules.values():
        quick = [
            item
            for item in module
            if not (item.get_closest_marker("slow") or item.get_closest_marker("thorough"))
        ]
        mark(quick, "thorough", but=fewest_that_meet_all(quick))
    result = yield  # pytest selects by names and marks
    if part := config.getoption("part"):
        k, n = part
        chosen = set(sorted({item.path for item in items})[k::n])
        config.hook.pytest_deselected(items=[each for each in items if each.path not in chosen])
        items[:] = [each for each in items if each.path in chosen]
    return result


def mark(items, marker, *, but):
    """Marks the items that are not among ``but``."""
    for item in items:
        if item not in but:
            item.add_marker(getattr(pytest.mark, marker))


def cross_section(items):
    """A diagonal through laws × cases, which meets each law and each value.

    Law ``j`` keeps its cases ``i`` with ``(i + j) % n == 0``. A law, or a value of a parameter,
    that the diagonal misses keeps its first case. A test's own ``n`` comes before its module's.
    """
    laws = collections.defaultdict(list)
    for item in items:
        laws[item.originalname].append(item)
    diagonal = []
    for j, cases in enumerate(laws.values()):
        n = cases[0].get_closest_marker("cross_section").args[0]
        diagonal += cases[-j % n :: n]
    met = set().union(*map(features, diagonal))
    kept = []
    for item in items:
        if item in diagonal or not features(item) <= met:
            met |= features(item)
            kept.append(item)
    return kept


def fewest_that_meet_all(items):
    """Few cases that meet each law and each value that the items meet.

    The next one chosen is the first of those that add most.
    """
    missing = set().union(*map(features, items))
    chosen = []
    while missing:
        chosen.append(max(items, key=lambda item: len(features(item) & missing)))
        missing -= features(chosen[-1])
    return chosen


def features(item):
    """What a case meets: its law, and the value of each of its parameters."""
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    return {item.originalname, *((name, repr(each)) for name, each in parameters.items())}


def law(nodeid):
    """A test without the parameters of its case."""
    return nodeid.partition("[")[0]


def listed():
    """The lines of the list, without comments."""
    return {line for line in LIST.read_text().splitlines() if line and not line.startswith("#")}


def mark_listed(items):
    """Marks the listed tests; ``test[...]`` stands for all cases of a test but the first."""
    lines, met = listed(), set()
    for item in items:
        test = law(item.nodeid)
        if test in lines or (test in met and f"{test}[...]" in lines):
            item.add_marker(pytest.mark.thorough)
        met.add(test)


def too_long(seconds, limit):
    """The lines of what takes longer than the limit; ``seconds`` has each case.

    One of several cases stays quick where they take less on average, or where its file would have
    no quick test. An example in a docstring may go: the tests meet its function, too.
    """
    tests = collections.defaultdict(list)
    for nodeid, each in seconds.items():
        tests[law(nodeid)].append(each)
    files = collections.defaultdict(list)
    for test in tests:
        files[test.partition("::")[0]].append(test)
    quickest = {
        min(names, key=lambda test: sum(tests[test]))
        for file, names in files.items()
        if file.startswith("tests/")
    }
    lines = set()
    for test, cases in tests.items():
        if sum(cases) > limit and not (test in quickest and len(cases) == 1):
            one_stays = test in quickest or sum(cases) <= limit * len(cases)
            lines.add(f"{test}[...]" if one_stays else test)
    return lines


def pytest_terminal_summary(terminalreporter, config):
    limit = config.getoption("list_thorough")
    if limit is None:
        return
    seconds = collections.Counter()
    for reports in terminalreporter.stats.values():
        for each in reports:
            if hasattr(each, "duration"):
                seconds[each.nodeid] += each.duration
    add_to_list(too_long(seconds, limit))
    terminalreporter.write_line(f"{LIST} lists {len(listed())} tests.")


def add_to_list(lines):
    comments = [line for line in LIST.read_text().splitlines() if line.startswith("#")]
    lines = listed() | lines
    whole = {line for line in lines if line.removesuffix("[...]") not in lines - {line}}
    LIST.write_text("\n".join([*comments, *sorted(whole)]) + "\n")

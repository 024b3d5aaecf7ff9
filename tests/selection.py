"""Which tests are quick, and parts of those that are slow.

A module, or a test, with ``pytest.mark.cross_section(n)`` has too many cases for the quick tests:
about one in ``n`` stays quick, and the others are marked as slow. ``--part K/N`` selects every
``N``-th file of the selected tests from the ``K``-th on; ``N`` parts are all of them.
"""

import collections

import pytest


def pytest_addoption(parser):
    parser.addoption(
        "--part",
        metavar="K/N",
        type=_part,
        help="every N-th file of the selected tests from the K-th",
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
        mark_all_but_a_cross_section(module)
    result = yield  # pytest selects by names and marks
    if part := config.getoption("part"):
        k, n = part
        chosen = set(sorted({item.path for item in items})[k::n])
        config.hook.pytest_deselected(items=[each for each in items if each.path not in chosen])
        items[:] = [each for each in items if each.path in chosen]
    return result


def mark_all_but_a_cross_section(items):
    """Marks as slow all but a diagonal through laws × cases, which meets each law and each value.

    Law ``j`` keeps its cases ``i`` with ``(i + j) % n == 0``. A law, or a value of a parameter,
    that the diagonal misses keeps its first case. A test's own ``n`` comes before its module's.
    """
    laws = collections.defaultdict(list)
    for item in items:
        laws[item.originalname].append(item)

    def features(item):
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        return {item.originalname, *((name, repr(each)) for name, each in parameters.items())}

    kept = []
    for j, cases in enumerate(laws.values()):
        n = cases[0].get_closest_marker("cross_section").args[0]
        kept += cases[-j % n :: n]
    met = set().union(*map(features, kept))
    for item in items:
        if item in kept or not features(item) <= met:
            met |= features(item)
        else:
            item.add_marker(pytest.mark.slow)

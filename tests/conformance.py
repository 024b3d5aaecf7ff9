"""The conformance suites as a table, members × laws: ``pytest --conformance``.

A module of laws names the parameters that identify a member, ``pytestmark =
pytest.mark.conformance("kernel", "padding")``. Each of its tests with these parameters is a law. A
cell of the table is the number of cases of the law that the member passed. A test
of many members records each of them by :func:`tell`.
"""

import collections
import functools

import hypothesis
import pytest

_drawn = 0


def cases(**strategies):
    """Hypothesis' ``given``, which counts the cases that it runs."""

    def decorate(test):
        @functools.wraps(test)
        def counted(*args, **kwargs):
            global _drawn
            _drawn += 1
            test(*args, **kwargs)

        return hypothesis.given(**strategies)(counted)

    return decorate


def tell(item, member, drawn, passed):
    """Enters what a member did under the law that a test is; ``drawn`` cases are hypothesis's."""
    law = item.originalname.removeprefix("test_").replace("_", " ")
    suite = item.module.__name__.removeprefix("test_")
    item.user_properties.append(("law", (suite, member, law, drawn, passed)))


def pytest_addoption(parser):
    parser.addoption(
        "--conformance", action="store_true", help="print the conformance suites, members × laws"
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    global _drawn
    _drawn = 0
    passed = False
    try:
        result = yield
        passed = True
        return result
    finally:
        marker = item.get_closest_marker("conformance")
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        if marker and marker.args and set(marker.args) <= set(parameters):
            member = " ".join(str(parameters[name]) for name in marker.args)
            tell(item, member, _drawn, passed)


def pytest_terminal_summary(terminalreporter, config):
    if not config.getoption("conformance"):
        return
    suites = collections.defaultdict(lambda: collections.defaultdict(collections.Counter))
    drawn = failed = 0
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            for name, value in report.user_properties:
                if name == "law" and report.when == "call":
                    suite, member, law, count, passed = value
                    suites[suite][law][member] += max(count, 1) if passed else 0
                    suites[suite][law, "failed"][member] += not passed
                    drawn, failed = drawn + count, failed + (not passed)
    for suite, laws in suites.items():
        names = [law for law in laws if isinstance(law, str)]
        members = list(dict.fromkeys(member for law in names for member in laws[law]))
        width = max(len(member) for member in members) + 1
        terminalreporter.section(f"{suite}: {len(members)} members, {len(names)} laws")
        for number, law in enumerate(names, start=1):
            terminalreporter.write_line(f"{number:4} {law}")
        header = "".join(f"{number:5}" for number in range(1, len(names) + 1))
        terminalreporter.write_line(" " * width + header)
        for member in members:
            cells = [
                "FAIL" if laws[law, "failed"][member] else str(laws[law][member] or "–")
                for law in names
            ]
            terminalreporter.write_line(f"{member:{width}}" + "".join(f"{c:>5}" for c in cells))
    terminalreporter.write_line(
        f"A cell: cases passed. Drawn by hypothesis: {drawn}. Failures: {failed}."
    )

"""Sentences and tables of a report: test errors compared, findings of ``diagnose``, and times."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from experiments.report.records import RunResult
from experiments.report.runs import RunFolder
from experiments.report.tables import format_duration
from stn_jax import nn as stnn

_START, _STEPS = "start and compilation", "steps"


class Diagnosed(NamedTuple):
    """The findings of :func:`stn_jax.nn.diagnose` on one training."""

    run: str
    seed: int
    findings: stnn.Diagnosis


def of_runs(names: Sequence[str], results: Sequence[RunResult]) -> list[str]:
    """Sentences that compare the test errors of some runs."""
    if len(results) == 1:
        (result,), (name,) = results, names
        seeds = f"{len(result.seeds)} seed{'s' * (len(result.seeds) > 1)}"
        return [
            f"{name} misreads {_error(result)} of {result.test_images:,} test images, mean of "
            f"{seeds}."
        ]
    if len({(result.dataset, result.distortion) for result in results}) > 1:
        return [f"{len(results)} runs on different sets, so their errors are not compared."]
    ranked = sorted(zip(results, names, strict=True), key=lambda each: each[0].mean)
    (best, name), (second, other) = ranked[:2]
    sentences = [
        f"{name} has the smallest test error, {_error(best)}; next is {other} with "
        f"{_error(second)}."
    ]
    if best.interval[1] < second.interval[0]:
        sentences.append(
            "The 95 % intervals do not overlap: the difference is more than the chance of seeds "
            "and test images."
        )
    else:
        sentences.append("The 95 % intervals overlap, so these runs do not tell the two apart.")
    return sentences


def diagnoses(names: Sequence[str], runs: Sequence[RunFolder]) -> list[Diagnosed]:
    """The diagnosis of each training with a spatial transformer whose metrics allow one."""
    return [
        each
        for name, run in zip(names, runs, strict=True)
        if run.result.transform is not None
        for each in of_seeds(name, run.metrics)
    ]


def of_seeds(name: str, metrics: Sequence[Mapping[str, Any]]) -> list[Diagnosed]:
    """The diagnosis of each seed of a run, from lines of metrics that allow one."""
    found = []
    for seed in dict.fromkeys(line["seed"] for line in metrics):
        lines = [line for line in metrics if line["seed"] == seed]
        try:
            found.append(Diagnosed(name, seed, stnn.diagnose(lines)))
        except ValueError:  # Runs of old versions have none of the numbers.
            continue
    return found


def of_diagnoses(found: Sequence[Diagnosed]) -> list[str]:
    """A sentence on all diagnoses."""
    if not found:
        return []
    wrong = [each for each in found if each.findings]
    if not wrong:
        return ["diagnose finds nothing wrong with the spatial transformers."]
    problems = dict.fromkeys(finding.name for each in wrong for finding in each.findings)
    return [
        f"diagnose finds problems in {len(wrong)} of {len(found)} trainings of spatial "
        f"transformers: {', '.join(problems)}."
    ]


def diagnosis_table(found: Sequence[Diagnosed]) -> tuple[list[str], list[list[str]]]:
    """Headings, and a row for each finding, or for a training without any."""
    rows = []
    for each in found:
        place = [each.run, str(each.seed)]
        for finding in each.findings:
            side = "above" if finding.value > finding.threshold else "below"
            number = f"{finding.evidence} {finding.value:.3g}, {side} {finding.threshold:g}"
            rows.append([*place, finding.name, number, finding.meaning, finding.remedy])
        if not each.findings:
            rows.append([*place, "nothing wrong", "", "", ""])
    return ["run", "seed", "finding", "evidence", "meaning", "what to try"], rows


def time_spent(run: RunFolder) -> dict[str, float]:
    """Seconds of the trainings of a run: until they were under way, and of their steps.

    Empty if its metrics hold no times.
    """
    trainings = {}
    for seed in run.result.seeds:
        ends = [
            line["seconds"] for line in run.metrics if line["seed"] == seed and "seconds" in line
        ]
        # Seeds that were trained together have the same times. Count these times once.
        trainings[tuple(ends)] = [b - a for a, b in zip([0.0, *ends], ends, strict=False)]
    trainings.pop((), None)
    if not trainings:
        return {}
    start = sum(
        max(0.0, each[0] - statistics.median(each[1:])) for each in trainings.values() if each[1:]
    )
    return {_START: start, _STEPS: sum(map(sum, trainings.values())) - start}


def time_table(
    spent: Mapping[str, Mapping[str, float]], runs: Mapping[str, RunFolder]
) -> tuple[list[str], list[list[str]]]:
    """Headings, and a row for each run."""
    rows = []
    for name, parts in spent.items():
        rates = [
            line["images_per_second"] for line in runs[name].metrics if "images_per_second" in line
        ]
        rate = f"{statistics.median(rates):,.0f}" if rates else ""
        rows.append([name, *(format_duration(parts[part]) for part in (_START, _STEPS)), rate])
    return ["run", _START, _STEPS, "images a second"], rows


def _error(result: RunResult) -> str:
    low, high = result.interval
    return f"{result.mean:.2f} % ({low:.2f} to {high:.2f})"

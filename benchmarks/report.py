"""Saved measurements as Markdown: ``python -m benchmarks.report FILES... [--into README.md]``.

Renders the files that commands wrote with ``--save`` as tables. Under each table it lists every row
in which ours is slower than a peer. With ``--into`` the tables replace the text between the markers
``<!-- benchmarks: begin -->`` and ``<!-- benchmarks: end -->`` of a file; otherwise they are
printed.
"""

import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tyro

from benchmarks.harness.files import read_json, write_text
from benchmarks.harness.records import Row, megabytes, milliseconds, times

BEGIN, END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"
_PACKAGES = (
    "jax",
    "stn-jax-native",
    "torch",
    "kornia",
    "dm_pix",
    "opencv-python-headless",
    "albumentations",
    "augmax",
    "keras",
    "SimpleITK",
)
EAGER = ("PyTorch, channels first", "PyTorch, channels last")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    """The options.

    Attributes:
      files: JSON files, in the order of the sections.
      into: Markdown file with markers.
    """

    files: tyro.conf.Positional[tuple[Path, ...]]
    into: Path | None = None


def beside_peers(labels: Sequence[str]) -> Callable[[list[Row]], str]:
    """Makes a renderer of rows that compare ours with peers."""

    def render(rows: list[Row]) -> str:
        header = [*labels, "ours, ms", "best peer, ms", "peer / ours", "PyTorch eager / ours"]
        header += ["of a copy", "peak MB, ours", "peak MB, peer"]
        body = [_cells(row, labels) for row in rows]
        shown = [k for k in range(len(header)) if any(line[k] != "–" for line in body)]
        table = _table(*([line[k] for k in shown] for line in (header, *body)))
        return f"{table}\n\n{losses(rows, labels)}"

    return render


def losses(rows: Sequence[Row], labels: Sequence[str]) -> str:
    """A line for every row in which a peer is faster; it lists all faster peers."""
    lines = []
    for row in rows:
        faster = {name: r for name, r in row["ratios"].items() if r["median"] < 1}
        if faster:
            each = "; ".join(f"{name} {times(ratio)}" for name, ratio in faster.items())
            lines.append(f"- {_name(row, labels)}: {each}")
    compared = sum(bool(row["ratios"]) for row in rows)
    headline = f"Slower than some peer in {len(lines)} of {compared} rows"
    if not lines:
        return headline + "."
    return "\n".join([f"{headline}; their time over ours:", "", *lines])


def multiples(rows: Sequence[Row]) -> str:
    """Families of transforms, a column for each shape and pass."""
    columns = [f"{row['shape']}, {row['pass']}" for row in rows]
    names = list(rows[0]["multiples"])
    body = [[name, *(times(row["multiples"][name]) for row in rows)] for name in names]
    first = ["affine, ms", *(milliseconds(row["seconds"]["affine"]) for row in rows)]
    return _table(["× affine", *columns], first, *body[1:])


def transforms(rows: list[Row]) -> str:
    """Families as multiples of the affine warp, then splines beside Kornia's."""
    families = [row for row in rows if "multiples" in row]
    others = [row for row in rows if "ratios" in row]
    labels = ("what", "shape", "pass")
    parts = [multiples(families)] if families else []
    return "\n\n".join(parts + ([beside_peers(labels)(others)] if others else []))


def compilations(rows: list[Row]) -> str:
    """Trace and compile times, and imports."""
    body = [
        [row["what"], row["pass"], *(milliseconds(spread) for spread in row["seconds"].values())]
        for row in rows
        if row["pass"] != "import"
    ]
    imports = [
        f"- {row['what']}: {milliseconds(spread)} ms"
        for row in rows
        if row["pass"] == "import"
        for spread in row["seconds"].values()
    ]
    header = ["what", "pass", "trace, ms", "trace and compile, ms"]
    return "\n\n".join(filter(None, [_table(header, *body), "\n".join(imports)]))


def costs(rows: list[Row]) -> str:
    """Models without and with a spatial transformer before the same classifier."""
    header = ["model", "what", "batch", "plain, ms", "with a transformer, ms", "with / plain"]
    body = []
    for row in rows:
        pair = row["model"], row["with a transformer"]
        took = [milliseconds(row["seconds"][name]) for name in pair]
        sizes = [f"{row['parameters'][name]:,}" for name in pair]
        cells = [" / ".join(pair), row["what"], str(row["batch"]), *took]
        body.append([*cells, times(row["ratios"][pair[1]]), " / ".join(sizes)])
    return _table([*header, "parameters"], *body)


def slopes(rows: list[Row]) -> str:
    """Slopes of logarithms, a column for each pass."""
    passes = list(dict.fromkeys(row["pass"] for row in rows))
    found: dict[str, dict[str, str]] = {}
    for row in rows:
        span = f"{row['quantity']}, {row['sizes'][0]} to {row['sizes'][-1]}"
        found.setdefault(span, {})[row["pass"]] = f"{row['slope']:.2f}"
    body = [[span, *(each.get(which, "–") for which in passes)] for span, each in found.items()]
    return _table(["slope over", *passes], *body)


def pipelines(rows: list[Row]) -> str:
    """Images a second of the input pipeline, of the step, and of both together."""
    names = list(rows[0]["images_per_second"])
    body = [
        [
            f"{row['images']}, {row['side']} pixels, batches of {row['batch size']}",
            *(f"{row['images_per_second'][name]:,.0f}" for name in names),
        ]
        for row in rows
    ]
    return _table(["images a second", *names], *body)


def augmentations(rows: list[Row]) -> str:
    """Augmented images a second of every library, and what ours takes to compile."""
    header = ["what", "library", "moves", "ms", "images a second", "for each core"]
    body, compiled, skipped = [], [], []
    for row in rows:
        for name, spread in row["seconds"].items():
            rate, cores = row["images_per_second"][name], row["cores"][name]
            ratio = times(row["ratios"][name]) if name in row["ratios"] else "–"
            error = row["keypoint_error"].get(name)
            off = "–" if error is None else f"{error:.2f}"
            cells = [f"{row['what']}, {row['shape']}", name, row["moves"][name]]
            rates = [f"{rate:,.0f}", f"{rate / cores:,.0f}", ratio, off]
            body.append([*cells, milliseconds(spread), *rates])
        compiled += [f"- {name}: {each:.2f} s" for name, each in row["compile_seconds"].items()]
        skipped += [f"- {name} was left out: {reason}" for name, reason in row["skipped"].items()]
    table = _table([*header, "time over ours", "keypoints off by, pixels"], *body)
    parts = [table, "\n".join(skipped), "Traced and compiled anew, ours:", "\n".join(compiled)]
    return "\n\n".join(filter(None, parts))


def seeds(rows: Sequence[Row]) -> str:
    """Trainings of several seeds, one after the other and at once."""
    ways = list(rows[0]["seconds"])
    header = ["model", "seeds", "batch", *(f"{way}, ms a step" for way in ways), "ratio"]
    body = []
    for row in rows:
        took = [milliseconds(row["seconds"][way]) for way in ways]
        ratio = next(iter(row["ratios"].values()))
        body.append([row["model"], str(row["seeds"]), str(row["batch"]), *took, times(ratio)])
    return _table(header, *body)


def registrations(rows: Sequence[Row]) -> str:
    """Errors and times of registrations, a line for each contender."""
    header = ["pairs", "shape", "by", "median error, pixels", "within a pixel", "median, ms"]
    body = []
    for row in rows:
        for name, error in row["median_error"].items():
            # A shape that has been compiled for the row before takes no longer at its first call.
            extra = max(row["first_seconds"][name] - row["median_seconds"][name], 0)
            body.append(
                [
                    row["pairs"],
                    row["shape"],
                    name,
                    f"{error:.3f}",
                    f"{row['found'][name] * row['number']:.0f} of {row['number']}",
                    f"{1e3 * row['median_seconds'][name]:.0f}",
                    f"{extra:.1f}" if name == row["ours"] else "–",
                ]
            )
    return _table([*header, "compiling, s"], *body)


SECTIONS: dict[str, tuple[str, Callable[[list[Row]], str]]] = {
    "sampler": ("Affine warps", beside_peers(("shape", "dtype", "pass"))),
    "transforms": ("Families of transforms", transforms),
    "train_step": (
        "A training step",
        beside_peers(("model", "batch", "width", "steps per dispatch")),
    ),
    "seeds": ("Several seeds at once", seeds),
    "cost": ("What a spatial transformer costs", costs),
    "compile": ("Compiling and importing", compilations),
    "scaling": ("How the cost grows", slopes),
    "pipeline": ("Input pipelines", pipelines),
    "registration": ("Registration", registrations),
    "augmentation": ("Augmentation", augmentations),
}


def title(record: dict[str, Any]) -> str:
    """The heading of a file: what was measured and, but for CPUs, on which device."""
    name, where = SECTIONS[record["benchmark"]][0], record["environment"]
    return name if where["backend"] == "cpu" else f"{name} on {where['device']}"


def circumstances(record: dict[str, Any]) -> str:
    """The machine, the versions and the day of a file."""
    where = record["environment"]
    versions = ", ".join(
        f"{name} {where['versions'][name]}" for name in _PACKAGES if name in where["versions"]
    )
    small = " **The small form, which says nothing about speed.**" if record["small"] else ""
    policy = f"OpenMP's policy {where['omp_wait_policy']}; " if where["backend"] == "cpu" else ""
    starts = 1 + len(where.get("went_on", ()))
    stopped = f"; in {starts} starts" if starts > 1 else ""
    return (
        f"{where['processor']}, {where['threads']} threads, JAX on {where['device']}; {versions}; "
        f"{policy}{where['time'][:10]}; "
        f"load when it began {where['load_at_start']:.1f}{stopped}.{small}"
    )


def tables(record: dict[str, Any]) -> str:
    """The tables of a file, and the rows in which a peer is faster."""
    return SECTIONS[record["benchmark"]][1](record["rows"])


def section(record: dict[str, Any]) -> str:
    """A file's heading, its environment, and its tables."""
    return f"### {title(record)}\n\n{circumstances(record)}\n\n{tables(record)}"


def main(command_line: Sequence[str] | None = None) -> None:
    """Prints the sections, or writes them into a file."""
    arguments = tyro.cli(Arguments, args=command_line, description=__doc__)
    loaded = {path: read_json(path) for path in arguments.files}
    measured = {path: each for path, each in loaded.items() if each.get("benchmark") in SECTIONS}
    for path in loaded.keys() - measured.keys():
        # For example results of benchmarks.accuracy, which have a text file of their own.
        print(f"{path} holds no measurement of speed and is left out.", file=sys.stderr)
    text = "\n\n".join(map(section, measured.values()))
    if arguments.into is None:
        print(text)
        return
    page = arguments.into.read_text()
    if BEGIN not in page or END not in page:
        raise ValueError(f"{arguments.into} must hold the lines {BEGIN} and {END}.")
    before, after = page.split(BEGIN)[0], page.split(END)[1]
    page = f"{before}{BEGIN}\n\n{text}\n\n{END}{after}"
    write_text(arguments.into, page)


def _cells(row: Row, labels: Sequence[str]) -> list[str]:
    peer, memory = row["best_peer"], row["memory"]
    eager = [row["ratios"][name] for name in EAGER if name in row["ratios"]]
    best_eager = min(eager, key=lambda ratio: ratio["median"], default=None)
    cells = [str(row[label]) for label in labels]
    cells.append(milliseconds(row["seconds"][row["ours"]]))
    cells.append(f"{milliseconds(row['seconds'][peer])} ({peer})" if peer else "–")
    cells.append(times(row["ratios"][peer]) if peer else "–")
    cells.append(times(best_eager) if best_eager else "–")
    cells.append(f"{row['copy_fraction']['median']:.0%}" if "copy_fraction" in row else "–")
    cells.extend(megabytes(memory.get(name)) for name in (row["ours"], peer))
    return cells


def _name(row: Row, labels: Sequence[str]) -> str:
    return ", ".join(
        row[label] if isinstance(row[label], str) else f"{label} {row[label]}" for label in labels
    )


def _table(header: Sequence[str], *body: Sequence[str]) -> str:
    lines = [header, ["---"] * len(header), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    main()

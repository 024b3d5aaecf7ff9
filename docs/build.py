"""Builds the documentation: ``python -m docs.build``, or ``make docs``.

It executes notebooks, treats warnings as errors, and prints the numbers of pages, cells, public
names, seconds and warnings. The outputs of a page's cells are cached in ``.cache/docs`` until the
library, the experiments, the benchmarks, their results or a version change.
"""

import dataclasses
import datetime
import hashlib
import os
import re
import shutil
import sys
import time
import warnings
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import tyro

from docs import gallery, public_api, results

ROOT = Path(__file__).resolve().parent.parent
# Cells of pages depend on these files, besides their own text.
_FOLDERS = ("stn_jax", "experiments", "examples", "benchmarks")
_FILES = ("figures.py", "kernel.py", "result_tables.py", "results.py", "translations.py")
_PACKAGES = ("jax", "flax", "optax", "numpy", "matplotlib", "sphinx", "myst-nb")
_CELL = re.compile(r"^`{3,}\{code-cell\}", re.MULTILINE)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    """The options.

    Attributes:
      pages: Build only these pages, such as start or tutorials/first, or those of folders, such
        as results, without executing other notebooks; all by default.
      out: Folder of the site.
      jobs: Number of processes that read and execute pages.
      fresh: Whether to execute cached pages again.
    """

    pages: tuple[str, ...] = ()
    out: Path = ROOT / "build" / "docs"
    jobs: int = 4
    fresh: bool = False


def fingerprint(root: Path = ROOT) -> str:
    """A hash of everything that cells depend on, besides their own text."""
    digest = hashlib.sha256()
    for path in _sources(root):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    digest.update(repr([metadata.version(name) for name in _PACKAGES]).encode())
    return digest.hexdigest()[:16]


def _sources(root: Path) -> Iterable[Path]:
    yield from (root / "docs" / name for name in _FILES)
    for folder in _FOLDERS:
        for path in sorted((root / folder).rglob("*")):
            if path.suffix in (".py", ".json"):
                yield path


def _chosen(folder: Path, names: Iterable[str]) -> list[str]:
    """The named pages, and those in the named folders."""
    every = _pages(folder)
    found = [
        [page for page in every if page == name or page.startswith(f"{name}/")] for name in names
    ]
    for name, pages in zip(names, found, strict=True):
        if not pages:
            raise ValueError(f"pages: expected pages or folders of docs; got {name!r}")
    return sorted(set().union(*found))


def number_of_cells(folder: Path, pages: Iterable[str]) -> dict[str, int]:
    """The number of code cells of each page that is a notebook."""
    cells = {page: len(_CELL.findall((folder / f"{page}.md").read_text())) for page in pages}
    return {page: number for page, number in cells.items() if number}


def _pages(folder: Path) -> list[str]:
    """Every page, by its path without an ending."""
    return [str(path.relative_to(folder).with_suffix("")) for path in sorted(folder.rglob("*.md"))]


def undocumented(environment: Any) -> list[str]:
    """Public names that no page of the site describes."""
    described = set(environment.get_domain("py").objects)
    return [name for name in public_api.names() if name not in described]


def main(command_line: Sequence[str] | None = None) -> int:
    """Builds the site; returns the exit status."""
    arguments = tyro.cli(Arguments, args=command_line, description=__doc__)
    started = time.time()
    cache = ROOT / ".cache" / "docs"
    kept = cache / fingerprint()
    for old in cache.glob("*"):
        if old != kept or arguments.fresh:
            shutil.rmtree(old)
    executions = kept / "executions"
    os.environ["STN_JAX_DOCS_CACHE"] = str(executions)

    # Sphinx forks to read pages. That is safe: conf.py has imported JAX but computed nothing.
    warnings.filterwarnings("ignore", message=r"os\.fork\(\) was called", category=RuntimeWarning)

    from jupyter_cache import get_cache
    from sphinx.application import Sphinx

    # Create the cache's tables now: if all processes do it, all but one fail.
    get_cache(executions).list_cache_records()
    # Pages that are written from the library's tables and from results.
    gallery.write(ROOT / "docs" / "gallery.md")
    results.write(ROOT / "docs" / "results")
    notebooks = number_of_cells(ROOT / "docs", _pages(ROOT / "docs"))
    chosen = _chosen(ROOT / "docs", arguments.pages)
    left_out = sorted(set(notebooks) - set(chosen)) if chosen else []
    doctrees = kept / ("doctrees of some pages" if left_out else "doctrees")
    app = Sphinx(
        ROOT / "docs",
        ROOT / "docs",
        arguments.out,
        doctrees,
        "html",
        confoverrides={
            "nb_execution_excludepatterns": [f"{page}.md" for page in left_out],
            # Cells that are not executed have no kernel to say their language.
            "suppress_warnings": ["myst-nb.lexer"] if left_out else [],
        },
        warningiserror=True,
        parallel=arguments.jobs,
    )
    app.build(filenames=[ROOT / "docs" / f"{page}.md" for page in chosen])
    pages = chosen or sorted(app.env.found_docs)
    cells = number_of_cells(ROOT / "docs", pages)
    now = {
        str(Path(record.uri).relative_to(ROOT / "docs").with_suffix(""))
        for record in get_cache(executions).list_cache_records()
        if record.created.replace(tzinfo=datetime.UTC).timestamp() >= started
    }
    executed = sum(number for page, number in cells.items() if page in now)
    missing = [] if chosen else undocumented(app.env)
    print(
        f"{len(pages)} pages; {sum(cells.values())} cells in {len(cells)} notebooks, {executed} "
        f"executed now; {time.time() - started:.0f} s; {app._warncount} warnings"
    )
    if not chosen:
        total = len(public_api.names())
        print(f"{total} public names, {total - len(missing)} on the API pages")
    for name in missing:
        print(f"error: {name} is public and stands on no page of docs/api", file=sys.stderr)
    if app._warncount:
        # Otherwise the next build skips the page and does not repeat its warnings.
        shutil.rmtree(doctrees)
    return 1 if missing or app.statuscode or app._warncount else 0


if __name__ == "__main__":
    sys.exit(main())

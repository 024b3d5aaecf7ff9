"""Pages that are written from tables, and the code on all pages."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from docs import build, gallery, kernel, results
from stn_jax.sampling.kernels import KERNELS
from stn_jax.sampling.padding import PADDINGS

ROOT = Path(build.__file__).parent.parent
NOTEBOOKS = sorted(
    page
    for page in (ROOT / "docs").rglob("*.md")
    if "file_format: mystnb" in page.read_text() and page.name != "gallery.md"
)


def code_of(text):
    """The cells of a notebook, without their options."""
    cells = re.findall(r"^```\{code-cell\}[^\n]*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return [re.sub(r"^:.*\n", "", cell, flags=re.MULTILINE) for cell in cells]


@pytest.mark.parametrize("page", NOTEBOOKS, ids=lambda page: page.stem)
def test_page_is_in_the_contents_and_its_cells_are_python(page):
    cells = code_of(page.read_text())
    assert cells
    for cell in cells:
        ast.parse(cell)
    index = page.parent / "index.md"
    assert re.search(rf"^{page.stem}$", index.read_text(), re.MULTILINE), f"{page} is in no toctree"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["extending"])
def test_recipes_are_followed(name, tmp_path):
    """In a process of its own, since recipes add to the library's tables."""
    script = tmp_path / "recipe.py"
    script.write_text("\n".join(code_of((ROOT / "docs" / f"{name}.md").read_text())))
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    finished = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert finished.returncode == 0, finished.stderr
    assert "error after 20 steps" in finished.stdout
    assert "64 images to train on, 32 to test" in finished.stdout


def printed_by(page, tmp_path):
    """What a tutorial's cells print in a new process; they assert what the page claims."""
    script = tmp_path / "page.py"
    script.write_text("\n".join(code_of((ROOT / f"docs/tutorials/{page}.md").read_text())))
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    paths = filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))
    environment |= {"PYTHONPATH": os.pathsep.join(paths), "JAX_PLATFORMS": "cpu"}
    finished = subprocess.run(
        [sys.executable, script],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


@pytest.mark.slow
def test_devices_agree_with_one(tmp_path):
    """On eight simulated devices."""
    printed = printed_by("devices", tmp_path)
    assert re.search(r"^shard_map +1\.00 long, \de-0\d off +8\.00 long", printed, re.M)


@pytest.mark.slow
def test_other_libraries_train_transformers(tmp_path):
    for package in ("equinox", "haiku", "keras", "optimistix"):
        pytest.importorskip(package, reason="the extra docs is not installed")
    assert printed_by("other_libraries", tmp_path).count("loss ") == 4


def test_gallery_shows_every_member(monkeypatch):
    names = list(gallery.families())
    assert {"affine", "thin_plate_spline", "flow", "chain", "fixed"} <= set(names)
    assert names[0] == "translation"
    assert "affine_grid" not in names
    monkeypatch.setitem(KERNELS, "brand_new", KERNELS["linear"])
    monkeypatch.setitem(PADDINGS, "brand_new_too", PADDINGS["wrap"])
    page = gallery.page()
    for name in [*names, *KERNELS, *PADDINGS]:
        assert f"### {name}\n" in page
    assert 'kernel="brand_new"' in page
    assert 'padding="brand_new_too"' in page
    for cell in code_of(page):
        ast.parse(cell)


def test_gallery_asks_for_an_example_of_an_unknown_argument():
    with pytest.raises(
        ValueError, match="what to pass as wavelength of ripple; give it an example"
    ):
        gallery.arguments_of("ripple", lambda shape, wavelength: None)


@pytest.fixture(scope="module")
def result_pages():
    return dict(results.pages())


def test_every_result_has_a_page_with_a_chart_and_a_line_of_the_index(result_pages):
    index, pages = result_pages["index"], dict(result_pages)
    del pages["index"]
    paths = [*results.EXPERIMENTS.glob("*.json"), *results.BENCHMARKS.glob("*.json")]
    assert {path.stem for path in paths} <= pages.keys()
    for path in paths:
        page = pages[path.stem]
        assert f"From `{path.relative_to(ROOT)}`." in page
        assert page.count("<figure>") == 1
        title = page.removeprefix("# ").partition("\n")[0]
        (line,) = (each for each in index.splitlines() if f"[{title}]({path.stem}.md)" in each)
        said = line.split(" | ")[1].removesuffix(" |")
        assert said
        assert f":::{{admonition}} In short\n{said}\n" in page
        assert f"\n{path.stem}\n" in index
    # One page has only what a command printed, about two versions.
    assert [name for name, page in pages.items() if "<figure>" not in page] == ["composition"]


def test_charts_show_the_figures_of_the_tables(result_pages):
    for name, series in (("distorted_mnist", {"stn_jax", "paper"}), ("sampler", {"OpenCV"})):
        titles = re.findall(r'title="([^":]+): ([\d.]+)', result_pages[name])
        assert series <= {title for title, _ in titles}
    cells = results.read("distorted_mnist")
    for shown, kept in (("stn_jax", "mean"), ("paper", "paper")):
        values = re.findall(rf'title="{shown}: ([\d.]+) %"', result_pages["distorted_mnist"])
        assert values == [f"{getattr(cell, kept):.3g}" for cell in cells]
    assert "Slower than some peer in" in result_pages["sampler"]


def test_results_that_change_flow_into_their_page(tmp_path):
    """New numbers, a cell that is not finished, and a table of another name."""
    entries = json.loads((results.EXPERIMENTS / "mnist_addition_short.json").read_text())
    entries[1] |= {"mean": 3.25, "verdict": "at or below"}
    entries[2] = {name: entries[2][name] for name in ("distortion", "model", "transform", "paper")}
    path = tmp_path / "mnist_addition_smooth.json"
    path.write_text(json.dumps(entries))
    page = results.experiment_page(path)
    assert page.title == "Mnist addition smooth"
    assert 'title="stn_jax: 3.25 %"' in page.chart
    assert "| st-fcn affine | 3.25 (" in page.body
    assert "| 2xst-fcn affine | … 9.0 |" in page.body
    assert page.verdict[:2] == [
        "1 of 5 cells are to be trained.",
        "Errors: 1 of 4 at or below the paper's, 3 above.",
    ]


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ("{", "unknown.json is not valid JSON"),
        ('{"a": 1}', "unknown.json holds neither cells of a table nor rows; give it an entry in"),
    ],
)
def test_result_that_cannot_be_shown_is_named(content, error, tmp_path):
    path = tmp_path / "unknown.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=error):
        results.experiment_page(path)


def test_unknown_result_with_rows_becomes_a_table(tmp_path):
    path = tmp_path / "new_thing.json"
    path.write_text('{"rows": [{"a": 1, "b": 0.5}, {"a": 2, "c": null}]}')
    page = results.experiment_page(path)
    assert page.title == "New thing"
    assert page.body == "| a |\n| --- |\n| 1 |\n| 2 |"


def test_pages_without_a_result_are_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "pages", lambda: iter([("index", "new"), ("same", "old")]))
    folder = tmp_path / "results"
    folder.mkdir()
    for path in (folder / "same.md", folder / "gone.md", tmp_path / "results.md"):
        path.write_text("old")
    written = (folder / "same.md").stat().st_mtime_ns
    results.write(folder)
    found = {path.name: path.read_text() for path in tmp_path.rglob("*.md")}
    assert found == {"index.md": "new", "same.md": "old"}
    assert (folder / "same.md").stat().st_mtime_ns == written


def test_pages_are_chosen_by_name_and_by_folder(tmp_path):
    (tmp_path / "results").mkdir()
    for name in ("start", "results/index", "results/speed"):
        (tmp_path / f"{name}.md").write_text("")
    assert build._chosen(tmp_path, ["results", "start"]) == [
        "results/index",
        "results/speed",
        "start",
    ]
    assert build._chosen(tmp_path, []) == []
    with pytest.raises(ValueError, match="expected pages or folders of docs; got 'end'"):
        build._chosen(tmp_path, ["end"])


def test_generated_pages_are_written_when_they_change_only(tmp_path):
    path = tmp_path / "gallery.md"
    gallery.write(path)
    written = path.stat().st_mtime_ns
    gallery.write(path)
    assert path.stat().st_mtime_ns == written
    assert path.read_text() == gallery.page()


def test_fingerprint_follows_the_code(tmp_path):
    pytest.importorskip("myst_nb", reason="the extra docs is not installed")
    for folder in ("stn_jax", "experiments", "benchmarks", "docs"):
        (tmp_path / folder).mkdir()
    for name in build._FILES:
        (tmp_path / "docs" / name).write_text("")
    first = build.fingerprint(tmp_path)
    (tmp_path / "docs" / "page.md").write_text("text")
    assert build.fingerprint(tmp_path) == first
    (tmp_path / "stn_jax" / "warp.py").write_text("code")
    assert build.fingerprint(tmp_path) != first


def test_cells_are_counted_by_page(tmp_path):
    (tmp_path / "a.md").write_text(
        "```{code-cell} python\n1\n```\n\n```{code-cell} python\n2\n```\n"
    )
    (tmp_path / "b.md").write_text("text\n")
    assert build.number_of_cells(tmp_path, ["a", "b"]) == {"a": 2}


def test_kernels_run_this_checkout(tmp_path, monkeypatch):
    for name in ("IPYTHONDIR", "JAX_PLATFORMS", "JAX_COMPILATION_CACHE_DIR"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    kernel.prepare(tmp_path)
    assert os.environ["PYTHONPATH"].split(os.pathsep) == [str(tmp_path), "elsewhere"]
    assert Path(os.environ["IPYTHONDIR"], "profile_default/ipython_kernel_config.py").is_file()

"""The report of synthetic run folders."""

import base64
import html
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from run_samples import write_run

from experiments.report import build_report, markup, verdicts
from experiments.report.runs import read_run


def test_report_writes_these_files_and_leaves_nothing_else(report: Path) -> None:
    assert sorted(path.name for path in report.iterdir()) == [
        "before_after_cnn.png",
        "before_after_st-cnn.png",
        "errors.png",
        "report.html",
        "theta.gif",
        "training_curves.png",
    ]


def test_page_tells_the_numbers_and_the_protocol(report: Path) -> None:
    page = (report / "report.html").read_text()
    assert "<h1>Digits &amp; &lt;turns&gt;</h1>" in page
    rows = [
        [html.unescape(cell) for cell in re.findall(r"<td[^>]*>([^<]*)</td>", row)]
        for row in re.findall(r"<tr>(.*?)</tr>", page)
    ]
    ends = ["398,122", "200", "3 min 05 s"]
    assert ["fcn", "–", "3.00", "2.62 to 3.71", "3.00", *ends] in rows
    assert ["cnn", "–", "3.12", "2.62 to 3.71", "3.00, 3.12, 3.25", *ends] in rows
    assert ["st-cnn", "affine", "1.88", "2.62 to 3.71", "3.00, 3.12, 3.25", *ends] in rows
    assert ["learning_rate", "0.00125", "0.00125", "0.00125"] in rows
    assert ["seeds", "0", "0, 1, 2", "0, 1, 2"] in rows
    text = html.unescape(page)
    assert "Student's t over <seeds>" in text
    assert "Test: 1,797 images" in text
    assert "jax 0.0.7 on cpu & friends" in text


def test_page_needs_no_other_file_and_no_script(report: Path) -> None:
    page = (report / "report.html").read_text()
    sources = re.findall(r'src="([^"]{0,30})', page)
    assert len(sources) == 4
    # Curves and the two rows of pictures are in forms for a narrow and for a dark page.
    sources += re.findall(r'srcset="([^"]{0,30})', page)
    assert len(sources) == 4 + 3 * 3
    assert all(re.match(r"data:image/(png|gif);base64,", source) for source in sources)
    lowered = re.sub(r"base64,[^\"]*", "", page).lower()
    for forbidden in ("http:", "https:", "<script", "<link", "href=", "url(", "@import"):
        assert forbidden not in lowered
    assert page.count("<img alt=") + page.count('role="img"') == page.count("<figcaption>") == 5


def forms_of(page: str) -> dict[str, Image.Image]:
    """The pictures of the first figure in several forms, by the condition of each."""
    figure = page[page.index("<picture>") : page.index("</picture>")]
    found = dict(re.findall(r'media="([^"]+)" srcset="data:image/png;base64,([^"]+)"', figure))
    found["usual"] = re.findall(r'src="data:image/png;base64,([^"]+)"', figure)[0]
    return {
        media: Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")
        for media, data in found.items()
    }


def test_pictures_have_a_narrow_and_a_dark_form(report: Path) -> None:
    forms = forms_of((report / "report.html").read_text())
    assert list(forms) == [
        "(max-width: 40rem) and (prefers-color-scheme: dark)",
        "(max-width: 40rem)",
        "(prefers-color-scheme: dark)",
        "usual",
    ]
    both, narrow, dark, usual = forms.values()
    assert (both.size, dark.size) == (narrow.size, usual.size)
    assert narrow.width < 600 < usual.width
    for form, background in ((usual, (255, 255, 255)), (dark, (0x16, 0x18, 0x1C))):
        assert form.getpixel((2, 2)) == background
    assert (report / "training_curves.png").stat().st_size > 0
    with Image.open(report / "training_curves.png") as written:
        np.testing.assert_array_equal(written.convert("RGB"), usual)


def test_chart_of_errors_is_to_scale_and_inside_the_page(report: Path) -> None:
    page = (report / "report.html").read_text()
    chart = page[page.index('<div class="chart"') : page.index("<figcaption>Test error")]
    rows = re.findall(r'<span class="label">([^<]+)</span>(.*?)</div></div>', chart)
    assert [name for name, _ in rows] == ["fcn", "cnn", "st-cnn"]
    ticks = dict(re.findall(r'class="tick" style="left:([\d.]+)%">([\d.]+)', chart))
    (end,) = (float(value) for place, value in ticks.items() if place == "100.00")
    for (_, row), mean in zip(rows, (3.0, 3.125, 1.875), strict=True):
        place = {
            kind: [
                float(value) for value in re.findall(rf'"{kind}" style="[^"]*?left:([\d.]+)%', row)
            ]
            for kind in ("dot", "ring", "bar")
        }
        assert place["dot"] == pytest.approx([100 * mean / end], abs=0.01)
        assert place["bar"] == pytest.approx([100 * 2.625 / end], abs=0.01)
        (width,) = re.findall(r"width:([\d.]+)%", row)
        assert float(width) == pytest.approx(100 * (3.71 - 2.625) / end, abs=0.01)
        assert all(0 <= value <= 100 for values in place.values() for value in values)


def places(chart: str) -> list[tuple[float, str]]:
    found = re.findall(r'class="tick" style="left:([\d.]+)%">([^<]+)', chart)
    return [(float(place), tick) for place, tick in found]


def test_chart_on_a_logarithmic_scale_has_a_place_for_zero_and_a_mark_of_reference() -> None:
    marks = [markup.Mark("ours", 10.0, (5.0, 20.0)), markup.Mark("paper", 0.0)]
    rows = [markup.Row("all"), markup.Row("a <b>", marks)]
    options: dict[str, Any] = {"reference": "paper", "logarithmic": True, "level": 1.0}
    chart = markup.dot_chart(rows, "%", "Said.", **options)
    assert "a &lt;b&gt;" in chart
    assert '<span class="label group">all</span><div class="track ticks">' in chart
    # The heading of a group repeats the scale.
    half = len(places(chart)) // 2
    assert places(chart)[:half] == places(chart)[half:]
    assert places(chart)[:2] == [(0, "0"), (10, "1")]
    at = {name: place for place, name in places(chart)}
    assert re.search(r'class="line level" style="left:10.00%"', chart)
    (dot,) = re.findall(r'class="dot" style="[^"]*left:([\d.]+)%', chart)
    assert float(dot) == at["10"] == pytest.approx(10 + 90 * np.log10(10) / np.log10(20), abs=0.01)
    assert re.search(r'class="diamond" style="[^"]*left:0.00%" title="paper: 0 %"', chart)
    assert re.findall(r'class="key (\w+)"', chart) == ["dot", "diamond"]


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ((0.5, 62), "0.5 1 2 5 10 20 50 100"),
        ((1, 1), "1 2"),
        ((0.7, 900), "0.1 1 10 100 1000"),
        ((58, 5634), "10 100 1000 10000"),
        ((1e-14, 1e-3), "1e-14 1e-12 1e-10 1e-08 1e-06 0.0001 0.01"),
    ],
)
def test_scales_have_few_ticks_around_all_values(values: tuple[float, float], ticks: str) -> None:
    rows = [markup.Row("row", [markup.Mark("a", value) for value in values])]
    chart = markup.dot_chart(rows, "s", "Said.", logarithmic=True)
    assert [name.removesuffix(" s") for _, name in places(chart)] == ticks.split()
    assert all(0 <= float(place) <= 100 for place in re.findall(r"left:([\d.-]+)%", chart))


def verdict_of(path: Path) -> str:
    found = re.search(r'<div class="verdict">(.*?)</div>', path.read_text(), re.DOTALL)
    assert found
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", found[1])).split())


def test_verdict_says_which_run_errs_less_and_whether_that_is_chance(tmp_path: Path) -> None:
    cnn = write_run(tmp_path / "a", model="cnn", pictures=False, mean=5.0, interval=[4.0, 6.0])
    st = write_run(tmp_path / "b", model="st-cnn", pictures=False, mean=2.0, interval=[1.0, 3.0])
    said = verdict_of(build_report(tmp_path / "both", [cnn, st]))
    assert said.startswith("st-cnn has the smallest test error, 2.00 % (1.00 to 3.00); next is cnn")
    assert "do not overlap" in said
    near = write_run(tmp_path / "c", model="fcn", pictures=False, mean=2.5, interval=[1.5, 3.5])
    said = verdict_of(build_report(tmp_path / "near", [cnn, near, st]))
    assert "next is fcn with 2.50 %" in said
    assert "overlap, so these runs do not tell the two apart" in said
    said = verdict_of(build_report(tmp_path / "one", [st]))
    assert said == "st-cnn misreads 2.00 % (1.00 to 3.00) of 1,797 test images, mean of 3 seeds."
    other = write_run(tmp_path / "d", model="fcn", pictures=False, distortion="P")
    assert "different sets" in verdict_of(build_report(tmp_path / "sets", [st, other]))


def test_page_shows_its_command_in_words_that_a_shell_takes(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", pictures=False)
    command = "python -m experiments.some --data 'npz:a <b>.npz' --out runs/x"
    page = build_report(tmp_path, [run], command=command).read_text()
    (shown,) = re.findall(r'<pre class="command">(.*?)</pre>', page)
    assert html.unescape(re.sub(r"<[^>]+>", "", shown)) == command
    assert '<pre class="command">' not in build_report(tmp_path, [run]).read_text()


def with_numbers(run: Path, **numbers: Any) -> Path:
    """Adds numbers to every line of metrics; one that is a list, for each step."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        at = line["step"] // 20 - 1
        line |= {name: v[at] if isinstance(v, list) else v for name, v in numbers.items()}
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def test_page_says_what_diagnose_finds(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", model="st-cnn", transform="affine", pictures=False)
    page = build_report(tmp_path, [with_numbers(run, coverage=0.9, scale=0.8, distance=0.3)])
    assert "diagnose finds nothing wrong" in verdict_of(page)
    assert page.read_text().count(">nothing wrong<") == 3
    page = build_report(tmp_path, [with_numbers(run, coverage=0.05)])
    assert "diagnose finds problems in 3 of 3 trainings" in verdict_of(page)
    assert "left the image" in verdict_of(page)
    assert "coverage 0.05, below 0.2" in page.read_text()


def test_page_says_where_the_time_went(tmp_path: Path) -> None:
    """Ten lines of two seconds each, and eighteen more until the first."""
    seconds = [20.0 + 2 * line for line in range(10)]
    alone = with_numbers(write_run(tmp_path / "a", pictures=False), seconds=seconds)
    spent = verdicts.time_spent(read_run(alone))
    # All seeds have the same times, so they were trained together.
    assert spent == pytest.approx({"start and compilation": 18.0, "steps": 20.0})
    text = build_report(tmp_path / "page", [alone]).read_text()
    assert "Time by part of a run" in text
    assert 'data-label="start and compilation">18 s</td>' in text
    assert 'data-label="images a second">2,500</td>' in text
    # Old runs have no times.
    old = write_run(tmp_path / "old", pictures=False)
    assert "Time by part of a run" not in build_report(tmp_path / "old-page", [old]).read_text()


def test_pictures_are_not_blank(report: Path) -> None:
    for path in report.glob("*.png"):
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"), np.float64)
        assert pixels.std() > 10, path.name
        assert min(pixels.shape[:2]) > 100, path.name


def test_one_run_gives_plain_file_names(st_run: Path) -> None:
    build_report(st_run, [st_run])
    assert {"before_after.png", "theta.gif", "report.html"} <= {p.name for p in st_run.iterdir()}


def test_runs_without_pictures_give_no_picture_section(tmp_path: Path) -> None:
    path = build_report(tmp_path, [write_run(tmp_path / "run", pictures=False)])
    assert "Test images, transformed images and predictions" not in path.read_text()
    assert not list(tmp_path.glob("before_after*"))


def test_report_is_written_again_over_itself(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", pictures=False)
    first = build_report(tmp_path, [run], "first").read_text()
    second = build_report(tmp_path, [run], "second").read_text()
    assert second == first.replace("first</", "second</")

"""The report of synthetic run folders."""

import base64
import dataclasses
import html
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from experiments.report import animation, build_report, error_table, verdicts
from experiments.report.records import RunResult
from experiments.report.runs import read_run, run_names

IMAGES, SNAPSHOTS, STEPS = 4, 5, 200


def write_run(
    folder: Path,
    *,
    model: str = "cnn",
    transform: str | None = None,
    seeds: tuple[int, ...] = (0, 1, 2),
    pictures: bool = True,
    **changes: Any,
) -> Path:
    """A run folder with random content; ``changes`` go into ``result.json``."""
    random = np.random.default_rng(len(model))
    folder.mkdir()
    config = {
        "model": model,
        "transform": transform,
        "distortion": "R",
        "learning_rate": 0.00125,
        "seeds": seeds,
    }
    (folder / "config.json").write_text(json.dumps(config))
    metrics = [
        {
            "seed": seed,
            "step": step,
            "loss": float(np.exp(-step / 50)) + random.uniform(0, 0.1),
            "train_error": random.uniform(0, 90),
            "images_per_second": 2500.0,
            **({"validation_error": random.uniform(1, 90)} if step % 100 == 0 else {}),
        }
        for seed in seeds
        for step in range(20, STEPS + 1, 20)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics))
    errors = [3.0 + seed / 8 for seed in seeds]
    result = {
        "model": model,
        "transform": transform,
        "distortion": "R",
        "dataset": "digits",
        "num_parameters": 398_122,
        "steps": STEPS,
        "batch_size": 128,
        "seeds": seeds,
        "test_errors": errors,
        "test_images": 1797,
        "mean": float(np.mean(errors)),
        "interval": [2.625, 3.71],
        "interval_method": "Student's t over <seeds>",
        "wall_time_s": 185.2,
        "versions": {"jax": "0.0.7"},
        "device": "cpu & friends",
        **changes,
    }
    (folder / "result.json").write_text(json.dumps(result))
    if pictures:
        arrays = {
            "steps": np.linspace(0, STEPS, SNAPSHOTS).astype(int),
            "inputs": random.integers(0, 256, (IMAGES, 12, 12, 1), np.uint8),
            "labels": np.arange(IMAGES),
            "predictions": random.integers(0, 10, (SNAPSHOTS, IMAGES)),
        }
        if transform is not None:
            identity = np.array([1, 0, 0, 0, 1, 0])
            noise = random.normal(0, 0.2, (SNAPSHOTS, IMAGES, 6)).astype(np.float32)
            arrays["theta"] = identity + np.linspace(0, 1, SNAPSHOTS)[:, None, None] * noise
            shape = (SNAPSHOTS, IMAGES, 8, 8, 1)
            arrays["outputs"] = random.integers(0, 256, shape, np.uint8)
        np.savez(folder / "pictures.npz", **arrays)
    return folder


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a report of three runs, of which two have pictures, and one an ST."""
    folder = tmp_path_factory.mktemp("runs")
    runs = [
        write_run(folder / "a", model="fcn", pictures=False, seeds=(0,)),
        write_run(folder / "b", model="cnn"),
        write_run(folder / "c", model="st-cnn", transform="affine", mean=1.875),
    ]
    return build_report(folder / "new" / "report", runs, "Digits & <turns>").parent


@pytest.fixture
def st_run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", model="st-cnn", transform="affine")


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
            kind: [float(value) for value in re.findall(rf'"{kind}" style="left:([\d.]+)%', row)]
            for kind in ("dot", "ring", "bar")
        }
        assert place["dot"] == pytest.approx([100 * mean / end], abs=0.01)
        assert place["bar"] == pytest.approx([100 * 2.625 / end], abs=0.01)
        (width,) = re.findall(r"width:([\d.]+)%", row)
        assert float(width) == pytest.approx(100 * (3.71 - 2.625) / end, abs=0.01)
        assert all(0 <= value <= 100 for values in place.values() for value in values)


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
    assert "Where the time went" in text
    assert 'data-label="start and compilation">18 s</td>' in text
    assert 'data-label="images a second">2,500</td>' in text
    # Old runs have no times.
    old = write_run(tmp_path / "old", pictures=False)
    assert "Where the time went" not in build_report(tmp_path / "old-page", [old]).read_text()


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
    assert "What the networks see" not in path.read_text()
    assert not list(tmp_path.glob("before_after*"))


def test_report_is_written_again_over_itself(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", pictures=False)
    first = build_report(tmp_path, [run], "first").read_text()
    second = build_report(tmp_path, [run], "second").read_text()
    assert second == first.replace("first</", "second</")


def test_animation_has_a_frame_for_each_snapshot_and_holds_the_last(report: Path) -> None:
    with Image.open(report / "theta.gif") as gif:
        durations = []
        for frame in range(gif.n_frames):
            gif.seek(frame)
            durations.append(gif.info["duration"])
            assert np.asarray(gif.convert("L")).std() > 10
        assert gif.info["loop"] == 0
    assert len(durations) == SNAPSHOTS
    assert len(set(durations[:-1])) == 1
    assert durations[-1] > 5 * durations[0]


@pytest.mark.parametrize("max_frames", [1, 3])
def test_animation_leaves_frames_out_evenly(st_run: Path, max_frames: int) -> None:
    pictures = read_run(st_run).pictures
    assert pictures is not None
    gif = animation.theta_animation(
        pictures, total_steps=STEPS, max_frames=max_frames, max_images=2
    )
    with Image.open(io.BytesIO(gif)) as image:
        assert image.n_frames == max_frames


def test_animation_leaves_frames_out_to_stay_small(
    st_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(animation, "_MAX_BYTES", 1)
    pictures = read_run(st_run).pictures
    assert pictures is not None
    gif = animation.theta_animation(pictures, total_steps=STEPS, max_images=1)
    with Image.open(io.BytesIO(gif)) as image:
        assert image.n_frames == 2


def test_frames_keep_the_first_and_the_last() -> None:
    assert animation.frame_indices(3, 40) == [0, 1, 2]
    indices = animation.frame_indices(1000, 40)
    assert len(indices) == len(set(indices)) == 40
    assert (indices[0], indices[-1]) == (0, 999)
    assert set(np.diff(indices)) == {25, 26}


def test_captions() -> None:
    def theta(*numbers: float) -> np.ndarray:
        return np.array(numbers, np.float32)

    assert (
        animation.theta_caption(0, 200, theta(1, 0, 0, 0, 1, 0))
        == "batch = 0/200, theta = [1.00 0.00 0.00 / 0.00 1.00 0.00]"
    )
    assert (
        animation.theta_caption(7, 200, theta(0.5, -0.001, -0.25))
        == "batch = 7/200, theta = [0.50 0.00 -0.25]"
    )
    projective = animation.theta_caption(1, 2, theta(1, 0, 0, 0, 1, 0, 0.125, 0))
    assert projective.endswith("[1.00 0.00 0.00 / 0.00 1.00 0.00 / 0.12 0.00]")
    assert len(animation.theta_caption(1, 2, np.zeros(32))) < 100


def test_error_table_is_aligned(report: Path) -> None:
    runs = report.parents[1]
    results = [RunResult.read(runs / name / "result.json") for name in "abc"]
    lines = error_table(results).splitlines()
    assert len(lines) == 2 + len(results)
    assert len({len(line) for line in lines}) == 1
    column = lines[0].index("test error %") + len("test error %")
    assert [line[:column].split() for line in lines[2:]] == [
        ["fcn", "–", "3.00"],
        ["cnn", "–", "3.12"],
        ["st-cnn", "affine", "1.88"],
    ]
    assert "data" not in lines[0]
    results[0] = dataclasses.replace(results[0], distortion="RTS")
    assert "digits, RTS" in error_table(results)


def test_names_say_as_much_as_tells_runs_apart(st_run: Path) -> None:
    of_run = RunResult.read(st_run / "result.json")

    def result(model: str, transform: str | None = None, distortion: str = "R") -> RunResult:
        return dataclasses.replace(of_run, model=model, transform=transform, distortion=distortion)

    assert run_names([result("cnn"), result("st-cnn", "affine")]) == ["cnn", "st-cnn"]
    assert run_names([result("st", "affine"), result("st", "rigid")]) == ["st affine", "st rigid"]
    assert run_names([result("cnn"), result("cnn", None, "P")]) == ["cnn R", "cnn P"]
    assert len(set(run_names([result("cnn"), result("cnn")]))) == 2


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "result.json"])
@pytest.mark.parametrize("content", [None, "", '{"seed": 0', "[1, 2]"])
def test_missing_or_broken_file_is_named(st_run: Path, name: str, content: str | None) -> None:
    if content is None:
        (st_run / name).unlink()
    else:
        (st_run / name).write_text(content)
    with pytest.raises(ValueError, match=re.escape(str(st_run / name))):
        build_report(st_run / "report", [st_run])
    assert not (st_run / "report").exists()


def test_half_a_line_of_metrics_is_named_by_its_number(st_run: Path) -> None:
    path = st_run / "metrics.jsonl"
    path.write_text(path.read_text()[:-20])
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 30 "):
        read_run(st_run)


def test_missing_entry_is_named(st_run: Path) -> None:
    path = st_run / "result.json"
    result = json.loads(path.read_text())
    del result["mean"]
    path.write_text(json.dumps(result))
    with pytest.raises(ValueError, match=r"result\.json lacks mean"):
        read_run(st_run)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": None}, "labels"),
        ({"outputs": None}, "outputs"),
        ({"theta": np.zeros((SNAPSHOTS, IMAGES, 5))}, r"theta must have shape \[5, 4, 1, 6\]"),
        ({"inputs": np.zeros((IMAGES, 8, 8, 1))}, "inputs must be uint8; got float64"),
        ({"steps": np.zeros(0, int)}, "steps must have shape"),
    ],
)
def test_pictures_that_do_not_fit_are_named(
    st_run: Path, change: dict[str, np.ndarray | None], message: str
) -> None:
    path = st_run / "pictures.npz"
    with np.load(path) as archive:
        arrays = {**archive, **change}
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    with pytest.raises(ValueError, match=rf"pictures\.npz.*{message}"):
        read_run(st_run)


@pytest.mark.parametrize("keep", [0, 10, 400, -30])
def test_cut_off_pictures_are_named(st_run: Path, keep: int) -> None:
    path = st_run / "pictures.npz"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"pictures\.npz"):
        read_run(st_run)


def test_unknown_transform_is_named(st_run: Path) -> None:
    path = st_run / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "transform": "warp"}))
    with pytest.raises(ValueError, match=r"pictures\.npz.*'warp'"):
        read_run(st_run)


def test_no_runs_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one run folder"):
        build_report(tmp_path, [])

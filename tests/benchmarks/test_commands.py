"""Every command in its smallest form: structure of the rows and agreement, but no times."""

import json
import math

import numpy as np
import pytest
import tyro
from scipy.ndimage import map_coordinates

from benchmarks import (
    accelerator,
    augmentation,
    composition,
    cost,
    pipeline,
    registration,
    report,
    sampler,
    scaling,
    seeds,
    train_step,
    transforms,
)
from benchmarks import compile as compile_command
from benchmarks.harness import timing
from benchmarks.harness.contenders import disagreement
from benchmarks.peers import in_jax, in_torch
from benchmarks.peers.cases import Case, affine_operands

pytestmark = pytest.mark.slow

OURS = in_jax.OURS


def check_spread(spread):
    assert 0 < spread["minimum"] <= spread["first_quartile"] <= spread["median"]
    assert spread["median"] <= spread["third_quartile"] < math.inf
    assert spread["rounds"] >= 1


def check_beside_peers(row):
    """A row's numbers are there, positive and finite, and the best peer is the fastest."""
    assert row["ours"] == OURS
    assert set(row["memory"]) == set(row["seconds"]) - {"copy"}
    for spread in (*row["seconds"].values(), *row["ratios"].values()):
        check_spread(spread)
    peers = set(row["seconds"]) - {OURS, "copy"}
    assert set(row["ratios"]) == peers
    if peers:
        median = {name: row["seconds"][name]["median"] for name in peers}
        assert row["best_peer"] == min(median, key=median.get)
    assert row["memory"][OURS] > 0
    # A peer may lack a feature, but never has another result.
    assert not any("differs" in reason for reason in row["skipped"].values())


COMMANDS = {
    each.__name__.rpartition(".")[2]: each
    for each in (
        augmentation,
        compile_command,
        cost,
        pipeline,
        registration,
        sampler,
        scaling,
        seeds,
        train_step,
        transforms,
    )
}


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("small", [False, True])
def test_labels_tell_the_rows_of_a_plan_apart(name, small):
    """Otherwise a measurement that goes on would take one row for another."""
    plan = list(COMMANDS[name].plan(COMMANDS[name].Arguments(small=small)))
    labels = {json.dumps(row.labels, sort_keys=True) for row in plan}
    assert len(labels) == len(plan) > 0


def test_sampler(tmp_path, capsys):
    path = tmp_path / "results" / "sampler.json"
    chosen = ["--shapes", "2x6x9x3", "--dtypes", "float32", "--passes", "forward", "image"]
    rows = sampler.main(["--small", *chosen, "--save", str(path)])
    assert [row["pass"] for row in rows] == [sampler.PASSES[w] for w in ("forward", "image")]
    for row in rows:
        check_beside_peers(row)
        check_spread(row["copy_fraction"])
        assert "map_coordinates" in row["ratios"]
    sizes = [row["bytes_moved"] for row in rows]
    assert sizes == [k * 2 * 6 * 9 * 3 * 4 for k in (2, 4)]
    assert "OpenCV" in rows[0]["ratios"]
    assert rows[1]["skipped"]["OpenCV"] == "it has no derivatives"
    record = json.loads(path.read_text())
    assert record["rows"] == rows
    assert record["small"]
    assert {"jax", "jaxlib", "numpy"} <= set(record["environment"]["versions"])
    assert capsys.readouterr().out.count("map_coordinates") >= 2


def test_sampler_of_volumes_in_half_precision():
    command = ["--small", "--shapes", "2x4x5x6x1", "--dtypes", "bfloat16", "--passes", "theta"]
    (row,) = sampler.main(command)
    check_beside_peers(row)


def test_sampler_of_splines_beside_scipy():
    shape = ["--shapes", "1x40x32x2", "--dtypes", "float32", "--passes", "forward"]
    rows = sampler.main(["--small", "--kernel", "bspline3", *shape])
    assert [row["pass"] for row in rows] == ["forward", sampler.COEFFICIENTS]
    for row in rows:
        check_beside_peers(row)
        assert "SciPy" in row["ratios"]


def test_sampler_with_chosen_peers():
    command = ["--small", "--shapes", "2x6x9x3", "--dtypes", "float32", "--passes", "forward"]
    (row,) = sampler.main([*command, "--only", "map"])
    assert set(row["seconds"]) == {OURS, "map_coordinates", "copy"}


@pytest.mark.parametrize("shape", ["3x4", "2x3xax1"])
def test_a_shape_that_is_none_is_refused(shape):
    with pytest.raises(ValueError, match="256x28x28x1"):
        sampler.main(["--small", "--shapes", shape])


@pytest.mark.parametrize("ndim", [2, 3])
def test_pytorch_agrees_and_is_measured(ndim):
    pytest.importorskip("torch", reason="PyTorch is not installed")
    case = Case((2, 5, 6, 7, 1)[-ndim - 2 :], "float32", "image")
    operands = affine_operands(case, 0)
    ours = next(iter(in_jax.affine_warps(case, operands))).results()
    names = []
    for make in in_torch.affine_warps(case, operands, compiled=False):
        contender = make()
        assert disagreement(contender.results(), ours, 1e-3) is None
        names.append(contender.name)
        # At least the arguments, the grid, the output and the gradient of the images.
        images = case.bytes_of_images
        assert contender.memory() >= 4 * images + ndim * images // case.shape[-1]
    assert set(names) >= {f"PyTorch, {layout}" for layout in in_torch.LAYOUTS}


def test_transforms():
    families, *splines = transforms.main(["--small", "--passes", "forward"])
    assert families["multiples"][transforms.AFFINE]["median"] == 1
    for name in transforms.families():
        check_spread(families["seconds"][name])
        check_spread(families["multiples"][name])
    assert len(splines) == 4
    for row in splines:
        check_beside_peers(row)


@pytest.mark.parametrize("name", train_step.NAMES)
def test_train_step(name):
    (row,) = train_step.main(["--small", "--models", name])
    assert row["steps per dispatch"] == 2
    check_beside_peers(row)


def test_compile():
    chosen = ["--only", "affine, linear", "import stn_jax after"]
    rows = compile_command.main(["--small", "--passes", "theta", *chosen])
    (warp,) = (row for row in rows if row["what"] == "affine, linear")
    assert list(warp["seconds"]) == ["trace", "trace and compile"]
    assert any(row["what"].startswith("import stn_jax ") for row in rows)
    for row in rows:
        for spread in row["seconds"].values():
            check_spread(spread)


def test_registration():
    rows = registration.main(["--small", "--kinds", "homography", "rigid volume"])
    assert [row["shape"] for row in rows] == ["40×48", "16×18×20"]
    for row in rows:
        assert row["number"] == 2
        assert all(len(errors) == 2 for errors in row["errors"].values())
        assert all(seconds > 0 for seconds in row["median_seconds"].values())
    lines = report.registrations(rows).splitlines()
    assert len(lines) == 2 + sum(len(row["errors"]) for row in rows)


@pytest.mark.parametrize("kind", registration.KINDS)
def test_the_true_map_of_a_pair_shows_the_first_view_on_the_second(kind):
    chosen = registration.KINDS[kind]
    pair = next(registration.pairs(chosen, 1, 0))
    assert registration.error(pair, pair.matrix) == 0
    axes = [np.arange(size) for size in chosen.shape]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)[..., ::-1]
    moved = points.reshape(-1, len(axes)) @ pair.matrix[:, :-1].T + pair.matrix[:, -1]
    moved = (moved[:, :-1] / moved[:, -1:]).T[::-1]
    read = map_coordinates(pair.moving, moved, order=1, cval=np.nan).reshape(chosen.shape)
    assert np.nanstd(read - pair.fixed) < 3 * registration.NOISE < np.std(pair.fixed)


def test_composition(capsys, monkeypatch):
    monkeypatch.setattr(composition, "LENGTHS", (1, 2))
    composition.main(["--warps", "3", "--rounds", "1"])
    warps, chains = capsys.readouterr().out.split("\n\n")
    assert [line.split()[-1] for line in warps.splitlines()[1:]] == ["ms", "ms", "s", "MiB", "MiB"]
    rows = [line.split()[-4:] for line in chains.splitlines()[2:]]
    assert [int(n) for n, *_ in rows] == [1, 1, 2, 2]
    assert all(float(seconds) > 0 for row in rows for seconds in row[1:])


def test_scaling(tmp_path):
    picture = tmp_path / "pictures" / "scaling.png"
    names = ["pixels", "control_points", "radius"]
    command = ["--small", "--sweeps", *names, "--picture", str(picture)]
    rows = scaling.main(command)
    assert [row["sweep"] for row in rows] == names
    for row in rows:
        assert math.isfinite(row["slope"])
        assert list(row["seconds"]) == [str(size) for size in row["sizes"]]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_slopes_of_powers():
    sizes = [1.0, 2.0, 4.0, 8.0]
    assert scaling.slope(sizes, [s**1.5 for s in sizes]) == pytest.approx(1.5)
    assert scaling.slope([1, 2], [3.0, 3.0]) == pytest.approx(0)


def spread(median):
    return timing.Spread(median, median, median, median, 3)._asdict()


def test_report_fills_in_the_tables_and_names_the_losses(tmp_path):
    rows = [
        {
            **{"shape": shape, "dtype": "float32", "pass": "forward", "ours": OURS},
            **{"best_peer": "peer", "memory": {OURS: 1_000_000, "peer": None}},
            "seconds": {OURS: spread(0.002), "peer": spread(0.002 * ratio)},
            "ratios": {"peer": spread(ratio)},
        }
        for shape, ratio in (("1×2×3×1", 2.0), ("4×5×6×1", 0.5))
    ]
    environment = {"processor": "abacus", "threads": 2, "device": "cpu", "load_at_start": 0.0}
    environment |= {"omp_wait_policy": "passive", "backend": "cpu"}
    environment |= {"versions": {"jax": "1"}, "time": "2000-01-01T00:00:00Z"}
    record = {"benchmark": "sampler", "small": False, "environment": environment, "rows": rows}
    saved, page = tmp_path / "sampler.json", tmp_path / "README.md"
    saved.write_text(json.dumps(record))
    page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    for _ in range(2):
        report.main([str(saved), "--into", str(page)])
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "| 1×2×3×1 | float32 | forward | 2.00 ± 0.000 | 4.00 ± 0.000 (peer) |" in text
    assert "Slower than some peer in 1 of 2 rows" in text
    assert "- 4×5×6×1, float32, forward: peer 0.500 [0.500, 0.500]" in text
    assert "### Affine warps\n" in text
    assert "OpenMP's policy passive" in text
    on_gpu = record | {"environment": environment | {"backend": "gpu", "device": "engine"}}
    section = report.section(on_gpu)
    assert section.startswith("### Affine warps on engine\n")
    assert "OpenMP" not in section
    page.write_text("no markers")
    with pytest.raises(ValueError, match="must hold the lines"):
        report.main([str(saved), "--into", str(page)])


def test_seeds(capsys):
    (row,) = seeds.main(["--small", "--models", "fcn"])
    assert set(row["seconds"]) == {seeds.APART, seeds.AT_ONCE}
    assert row["ratios"][seeds.APART]["median"] > 0
    assert seeds.AT_ONCE in capsys.readouterr().out


def test_cost(capsys):
    rows = cost.main(["--small", "--models", "fcn"])
    assert [row["what"] for row in rows] == [cost.STEP, cost.BATCH]
    # Three layers of 32 units on 28×28 pixels and six parameters, by hand.
    localization = (28 * 28 + 1) * 32 + 2 * 33 * 32 + 33 * 6
    for row in rows:
        sizes = row["parameters"]
        assert sizes["st-fcn"] - sizes["fcn"] == localization
        assert set(row["ratios"]) == {"st-fcn"}
    printed = capsys.readouterr().out
    assert f"({sizes['st-fcn']:,} / {sizes['fcn']:,})" in printed
    table = report.costs(rows).splitlines()
    assert len(table) == 4
    assert table[2].startswith("| fcn / st-fcn | training step | 8 |")


def test_pipeline(capsys):
    rows = pipeline.main(["--small"])
    assert [row["images"] for row in rows] == ["arrays", "JPEG files"]
    for row in rows:
        assert set(row["seconds"]) == {pipeline.PIPELINE, pipeline.STEP, pipeline.TOGETHER}
        for name, spread in row["seconds"].items():
            check_spread(spread)
            assert row["images_per_second"][name] == pytest.approx(2 * 4 / spread["median"])
    assert capsys.readouterr().out.count("images/s") == 6


def test_augmentation(capsys):
    (row,) = augmentation.main(["--small"])
    assert row["ours"] in row["seconds"]
    for name, spread in row["seconds"].items():
        check_spread(spread)
        assert row["images_per_second"][name] == pytest.approx(2 / spread["median"])
    # The spots of so small an image are two pixels wide.
    assert row["keypoint_error"][augmentation.OURS] < 0.5
    assert all(seconds > 0 for seconds in row["compile_seconds"].values())
    table = report.augmentations([row])
    assert f"| {row['what']}, 2×28×35×3 | {augmentation.OURS} | image, mask, keypoints |" in table
    assert capsys.readouterr().out.count("images/s") == len(row["seconds"])


def test_keypoints_are_missed_where_they_are_wrong():
    batch = augmentation.batch_of((3, 40, 60, 3), 4, 0)
    assert augmentation.keypoint_error(batch) < 0.05
    wrong = batch._replace(keypoints=batch.keypoints + 3.0)
    assert augmentation.keypoint_error(wrong) == pytest.approx(3 * math.sqrt(2), abs=0.05)


def test_what_an_accelerator_is_measured_by(tmp_path, capsys, monkeypatch):
    saved = []

    def command(name):
        def run(command_line):
            *options, flag, path = command_line
            assert (options, flag) == (["--small"], "--save")
            saved.append(path)

        return run

    chosen = {name: (command(name), 1.0, ()) for name in ("sampler", "transforms")}
    with monkeypatch.context() as patch:
        patch.setattr(accelerator, "COMMANDS", chosen)
        assert accelerator.main(["--small", "--out", str(tmp_path)]) == 0
        assert [path.rpartition("/")[2] for path in saved] == [
            "sampler_cpu.json",
            "transforms_cpu.json",
        ]
        assert accelerator.main(["--minutes", "0", "--out", str(tmp_path)]) == 1
        assert "left out, for want of time: sampler, transforms" in capsys.readouterr().out
    # The commands use the given options.
    for name, (_, _, options) in accelerator.COMMANDS.items():
        module = {"sampler": sampler, "train_step": train_step, "transforms": transforms}[name]
        tyro.cli(module.Arguments, args=options)


def test_on_this_device_it_runs(tmp_path):
    assert accelerator.main(["--small", "--out", str(tmp_path)]) == 0
    assert {path.stem.partition("_cpu")[0] for path in tmp_path.iterdir()} == {
        "sampler",
        "train_step",
        "transforms",
    }

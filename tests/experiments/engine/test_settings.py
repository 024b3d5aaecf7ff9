"""Settings from a file, from a run's folder and from the command line, for every experiment."""

import contextlib
import importlib
import io
import json
import re
import shlex
from pathlib import Path

import pytest
from data_samples import two_classes_of_noise

from experiments.birds.config import Arguments as Birds
from experiments.classification.config import Arguments as Digits
from experiments.classification.config import TableArguments
from experiments.colocalisation.config import Arguments as Colocalisation
from experiments.distorted_mnist import __main__ as distorted_mnist
from experiments.engine import command_of
from experiments.engine.options import as_json
from experiments.engine.settings import read_command
from experiments.invariance.config import Arguments as Invariance

PROGRAM = "python -m experiments.some"


def arguments_of(room):
    return importlib.import_module(f"experiments.{room}.__main__").Arguments


# For each command: its options, some words, and the settings that its folder keeps.
COMMANDS = {
    "one model": (
        Digits,
        ["--model", "st-cnn", "--seeds", "3", "4", "--distortion", "E", "--width", "0.5"],
        lambda arguments: arguments.runs()[0][0].to_json(),
    ),
    "two models": (Digits, ["--recipe", "paper", "--steps", "9"], lambda a: a.to_json()),
    "table": (TableArguments, ["--models", "fcn", "cnn", "--seeds", "7"], lambda a: a.to_json()),
    "volumes": (arguments_of("volumes"), ["--transforms", "rigid"], lambda a: a.to_json()),
    "addition": (arguments_of("mnist_addition"), ["--steps", "9"], lambda a: a.to_json()),
    "signs": (arguments_of("traffic_signs"), ["--data", "npz:a b.npz"], lambda a: a.to_json()),
    "stability": (arguments_of("stability"), ["--seeds", "1", "2"], lambda a: a.to_json()),
    "invariance": (Invariance, ["--max-angle", "45", "--angle-step", "15"], lambda a: a.to_json()),
    "birds": (Birds, ["--remat", "--side", "32", "--recipe", "paper"], lambda a: a.to_json()),
    "colocalisation": (Colocalisation, ["--digits", "3", "5"], lambda a: a.to_json()),
}


@pytest.fixture(params=COMMANDS)
def kept(request, tmp_path):
    """A command, its options, and an output folder that keeps their settings."""
    kind, words, settings = COMMANDS[request.param]
    arguments = read_command(PROGRAM, kind, [*words, "--out", str(tmp_path)])
    (tmp_path / "config.json").write_text(json.dumps(settings(arguments)))
    return kind, arguments, tmp_path


def settings_of(arguments):
    """The settings; those that are ``None`` have the recipe's defaults."""
    values = as_json(arguments)
    if "batch_size" in values and hasattr(arguments, "resolved"):
        resolved = arguments.resolved
        resolved = resolved._asdict() if hasattr(resolved, "_asdict") else None
        resolved = resolved or arguments.resolved(type(arguments))
        values |= {name: resolved[name] for name in ("batch_size", "learning_rate")}
        values |= {name: resolved[name] for name in ("steps",) if values["steps"] is None}
    return {name: value for name, value in values.items() if value is not None}


def test_resume_alone_has_the_settings_of_the_folder(kept):
    kind, arguments, out = kept
    again = read_command(PROGRAM, kind, ["--out", str(out), "--resume"])
    assert again.out == out
    expected, found = settings_of(arguments), settings_of(again)
    assert {name: found[name] for name in expected} == expected


def test_resume_takes_options_that_agree_and_refuses_others(kept):
    kind, _, out = kept
    saved = kind.saved_in(out)
    words = ["--out", str(out), "--resume", "--seeds"]
    seeds = [str(seed) for seed in saved["seeds"]]
    assert list(read_command(PROGRAM, kind, [*words, *seeds]).seeds) == saved["seeds"]
    message = rf"seeds was \[{', '.join(seeds)}\], is \[99\]\. Leave these options out"
    with pytest.raises(ValueError, match=message):
        read_command(PROGRAM, kind, [*words, "99"])
    # A file of settings is no exception.
    other = out / "other.json"
    other.write_text('{"seeds": [98]}')
    with pytest.raises(ValueError, match=r"is \[98\]"):
        read_command(PROGRAM, kind, ["--out", str(out), "--resume", "--config", str(other)])


def test_the_command_line_comes_before_a_file_of_settings(kept):
    kind, arguments, out = kept
    words = ["--config", str(out / "config.json"), "--seeds", "5", "--out", "elsewhere"]
    again = read_command(PROGRAM, kind, words)
    assert (again.seeds, again.out) == ((5,), Path("elsewhere"))
    expected = settings_of(arguments) | {"seeds": [5]}
    found = settings_of(again)
    assert {name: found[name] for name in expected} == expected


def test_a_run_of_another_command_is_not_resumed(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(Birds().to_json()))
    with pytest.raises(ValueError, match=r"run of another command: .* fit, num_transforms"):
        read_command(PROGRAM, Digits, ["--out", str(tmp_path), "--resume"])
    volumes = arguments_of("volumes")
    (tmp_path / "config.json").write_text(json.dumps(TableArguments().to_json()))
    with pytest.raises(ValueError, match=r"run of another command: .* distortions"):
        read_command(PROGRAM, volumes, ["--out", str(tmp_path), "--resume"])


def test_resume_without_a_run(tmp_path):
    for words in ([], ["--profile"]):
        with pytest.raises(ValueError, match=r"--resume must find a run .* does not exist.*--out"):
            read_command(PROGRAM, Digits, ["--out", str(tmp_path / "a"), "--resume", *words])
    with pytest.raises(ValueError, match=r"has no config\.json"):
        read_command(PROGRAM, Digits, ["--out", str(tmp_path), "--resume"])
    # A job that may be killed at any time has the same command at its first start.
    assert read_command(PROGRAM, Digits, ["--out", "new", "--resume", "--steps", "5"]).steps == 5


def test_toml_and_places_in_a_file(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text('steps = 7\nmodel = ["fcn"]\nlearning_rate = 1e-5\nout = "there"\n')
    arguments = read_command(PROGRAM, Digits, ["--config", str(file)])
    assert (arguments.steps, arguments.model, arguments.learning_rate) == (7, ("fcn",), 1e-5)
    assert arguments.out == Path("there")
    # The run of a cell serves the command of a table.
    cell = tmp_path / "config.json"
    cell.write_text(json.dumps({"model": "fcn", "distortion": "P", "transform": "rigid"}))
    table = read_command(PROGRAM, TableArguments, ["--config", str(cell)])
    assert (table.models, table.distortions, table.transforms) == (("fcn",), ("P",), ("rigid",))


@pytest.mark.parametrize("kind", [each[0] for each in COMMANDS.values()])
def test_help_begins_with_the_common_options(kind):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), pytest.raises(SystemExit):
        read_command(PROGRAM, kind, ["--help"])
    options = re.findall(r"^\W{1,3}--([a-z][a-z-]*)", printed.getvalue(), re.MULTILINE)
    # An experiment on one set shows no choice of sets.
    first = [word for name in kind.FIRST if (word := name.replace("_", "-")) in options]
    assert options[: len(first)] == first
    assert {"out", "resume", "config", "data", "seeds", "steps"} <= set(first)
    assert options.index("coordinator") > options.index("precision")


def test_help_explains_the_sets_and_names_the_other_commands(capsys):
    for command in ([], ["table"], ["pictures"]):
        with pytest.raises(SystemExit):
            distorted_mnist.main([*command, "--help"])
        text = " ".join(capsys.readouterr().out.replace("│", " ").replace("| ", " ").split())
        for words in ("R, turned", "RTS, turned", "P, in perspective", "E, bent", "TC, put any"):
            assert words in text
        if not command:
            assert "`table --help`" in text
            assert "`pictures --help`" in text


def test_a_command_is_written_as_it_may_be_given(kept):
    kind, arguments, _ = kept
    command = command_of(PROGRAM, arguments)
    assert command.startswith(f"{PROGRAM} --")
    again = read_command(PROGRAM, kind, shlex.split(command)[3:])
    assert again == arguments
    assert command_of(PROGRAM, again) == command


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two classes of noise that differ in brightness."""
    return two_classes_of_noise(tmp_path_factory.mktemp("data"), 40, 24, 8)


def small(data, out, *more, model=("fcn",)):
    return [
        *("--model", *model, "--data", data, "--out", str(out), "--width", "0.02"),
        *("--steps", "4", "--steps-per-dispatch", "2", "--batch-size", "4"),
        *more,
    ]


def times(folder):
    """When each file was written last."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("result.json")}


def test_resume_alone_goes_on_with_that_very_run(data, tmp_path, capsys):
    out = tmp_path / "run"
    assert distorted_mnist.main(small(data, out)) == 0
    before = times(out)
    assert distorted_mnist.main(["--out", str(out), "--resume"]) == 0
    assert times(out) == before
    assert not [path for path in out.iterdir() if (path / "config.json").exists()]
    assert re.search(r"^fcn ", capsys.readouterr().out, re.MULTILINE)
    # Two models inside the folder of a run: refused, whatever the options.
    for more in (["--model", "fcn", "st-fcn"], ["--resume", "--model", "fcn", "cnn"]):
        assert distorted_mnist.main(["--out", str(out), "--data", data, *more]) == 2
        message = capsys.readouterr().err
        assert "another --out" in message
        assert "--resume" in message
    assert times(out) == before


def test_several_models_are_resumed_together(data, tmp_path, capsys):
    out = tmp_path / "both"
    assert distorted_mnist.main(small(data, out, model=("st-fcn", "fcn"))) == 0
    kept = json.loads((out / "config.json").read_text())
    assert (kept["model"], kept["steps"]) == (["st-fcn", "fcn"], 4)
    for earlier_version in (False, True):
        if earlier_version:  # It left settings in the folders of the models alone.
            (out / "config.json").unlink()
        (out / "fcn" / "result.json").unlink()
        capsys.readouterr()
        assert distorted_mnist.main(["--out", str(out), "--resume"]) == 0
        assert {path.parent.name for path in times(out)} == {"fcn", "st-fcn"}
        kept = json.loads((out / "config.json").read_text())
        assert (set(kept["model"]), kept["steps"]) == ({"st-fcn", "fcn"}, 4)
    assert distorted_mnist.main(["--out", str(out), "--resume", "--model", "fcn"]) == 2
    assert "is ['fcn']" in capsys.readouterr().err
    # The folder may hold what is not theirs, so a single run does not delete it.
    assert distorted_mnist.main(small(data, out, "--overwrite")) == 2
    assert "further runs, in fcn, st-fcn" in capsys.readouterr().err


WRITER = """
import json

class Writer:
    def __init__(self, folder, training):
        self.file = (folder / f"{training}.own").open("w")
        self.file.write(json.dumps(json.loads((folder / "config.json").read_text())["steps"]))

    def write(self, step, metrics):
        self.file.write("\\n" + json.dumps({"step": step, **metrics}))

    def close(self):
        self.file.write("\\nclosed")
        self.file.close()

NUMBER = 3
"""


def test_a_writer_of_ones_own_gets_all_metrics(data, tmp_path, monkeypatch):
    (tmp_path / "own_writer.py").write_text(WRITER)
    monkeypatch.syspath_prepend(tmp_path)
    out = tmp_path / "run"
    words = small(data, out, "--metrics-writer", "own_writer:Writer", "--seeds", "0", "1")
    assert distorted_mnist.main(words) == 0
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    for seed in (0, 1):
        steps, *rows, last = (out / f"seed-{seed}.own").read_text().splitlines()
        expected = [
            {name: value for name, value in line.items() if name != "seed"}
            for line in lines
            if line["seed"] == seed
        ]
        assert (steps, last) == ("4", "closed")
        assert [json.loads(row) for row in rows] == expected
    # A run that is resumed hands all lines over again.
    (out / "result.json").unlink()
    again = ["--out", str(out), "--resume", "--metrics-writer", "own_writer:Writer"]
    assert distorted_mnist.main(again) == 0
    _, *rows, last = (out / "seed-0.own").read_text().splitlines()
    assert last == "closed"
    assert [json.loads(row)["step"] for row in rows] == [2, 4]


@pytest.mark.parametrize(
    ("specification", "message"),
    [
        ("own_writer", "no colon"),
        ("absent_module:Writer", "No module named 'absent_module'"),
        ("own_writer:Absent", "no attribute 'Absent'"),
        ("own_writer:NUMBER", "got 'own_writer:NUMBER', a int"),
    ],
)
def test_a_writer_that_is_none_is_refused(specification, message, tmp_path, monkeypatch, capsys):
    (tmp_path / "own_writer.py").write_text(WRITER)
    monkeypatch.syspath_prepend(tmp_path)
    out = tmp_path / "run"
    words = ["--out", str(out), "--metrics-writer", specification]
    assert distorted_mnist.main(words) == 2
    printed = capsys.readouterr().err
    assert "metrics_writer must be MODULE:OBJECT" in printed
    assert message in printed
    assert not out.exists()

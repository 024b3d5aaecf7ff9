"""Reads the options of a command from its command line, a file, and the folder of a run."""

import argparse
import dataclasses
import difflib
import json
import shlex
import sys
import tomllib
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tyro

from experiments.engine.options import Launch, Options, OutputFolder, as_json

_SUPPRESSED = typing.get_args(tyro.conf.Suppress[int])[1]
_POSITIONAL = typing.get_args(tyro.conf.Positional[int])[1]
# Options that say where and how, not what to train.
_PLACES = {"out"} | {
    field.name for kind in (Launch, OutputFolder) for field in dataclasses.fields(kind)
}


# Names of options in other programs, and the names of the same options here.
_NAMES_ELSEWHERE = {
    "lr": "learning_rate",
    "epochs": "steps",
    "iterations": "steps",
    "max_steps": "steps",
    "batch": "batch_size",
    "bs": "batch_size",
    "dataset": "data",
    "output": "out",
    "output_dir": "out",
    "out_dir": "out",
    "seed": "seeds",
    "network": "model",
    "fp16": "precision",
    "dtype": "precision",
    "bfloat16": "precision",
    "continue": "resume",
    "force": "overwrite",
    "gpu": "parallel",
    "gpus": "parallel",
    "wandb": "metrics_writer",
}


def read_command(
    program: str, kind: type[Any], words: Sequence[str] | None, *, commands: Sequence[str] = ()
) -> Any:
    """The options of a command.

    An option has the value of the first of these that sets it: the command line, the file of
    ``--config``, and, with ``--resume``, the run in the output folder.

    Args:
      program: The command, in the help and in messages.
      kind: The record of its options.
      words: The command line, ``sys.argv`` if ``None``.
      commands: Names of further commands, which stand before all options.

    Raises:
      ValueError: If a word is no option of the command, a file of settings cannot be read or has
        an entry that is no option, there is no run to resume, or options contradict those of the
        run that is resumed.
    """
    words = list(sys.argv[1:] if words is None else words)
    names = {field.name for field in dataclasses.fields(kind)}
    _check_words(program, kind, words, commands)
    seen = _peek(words)
    config = seen.config if "config" in names else None
    from_file = [] if config is None else _words(kind, _read_file(kind, config), config)
    out = Path(seen.out or _defaults(kind).get("out") or ".")
    saved = _saved(kind, out, words) if seen.resume and "resume" in names else None
    from_run = [] if saved is None else _words(kind, saved, out, foreign=True)
    _order_help(kind)
    arguments = tyro.cli(
        kind,
        prog=program,
        args=[*from_run, *from_file, *words],
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    if saved is not None:
        _check_same(saved, arguments, out)
    return arguments


def command_of(program: str, arguments: Any) -> str:
    """The command with these options, for a shell; options at their defaults are left out."""
    defaults = _defaults(type(arguments))
    values = as_json(arguments) | ({"out": str(arguments.out)} if hasattr(arguments, "out") else {})
    changed = {
        name: value
        for name, value in values.items()
        if name not in defaults or _json(defaults[name]) != value
    }
    return shlex.join([*program.split(), *as_words(changed, apart=True)])


def as_words(values: Mapping[str, Any], *, apart: bool = False) -> list[str]:
    """The words of a command line that set options.

    Args:
      values: JSON values by the names of fields. ``False`` sets nothing.
      apart: Whether a value is a word of its own, or follows its option after ``=``.
    """
    words: list[str] = []
    for name, value in values.items():
        option = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            words += [option] * value
        elif isinstance(value, list | tuple):
            words += [option, *map(str, value)]
        else:
            words += [option, str(value)] if apart else [f"{option}={value}"]
    return words


def _check_words(
    program: str, kind: type[Any], words: Sequence[str], commands: Sequence[str]
) -> None:
    """Raises if a word is no option; the error names the option that may be meant."""
    hints = typing.get_type_hints(kind, include_extras=True)
    options = [f.name for f in dataclasses.fields(kind) if not _is_suppressed(hints[f.name])]
    help_ = f"`{program} --help` lists the options."
    before = "--"
    for place, word in enumerate(words):
        name = word[2:].partition("=")[0].replace("-", "_") if word.startswith("--") else None
        if name is not None and name not in [*options, "help", "tyro_print_completion"]:
            known = [_NAMES_ELSEWHERE.get(name, ""), *difflib.get_close_matches(name, options)]
            meant = [f"--{each.replace('_', '-')}" for each in known if each in options]
            perhaps = f"Perhaps {meant[0]} is meant. " if meant else ""
            raise ValueError(f"{program} has no option {word.partition('=')[0]}. {perhaps}{help_}")
        if place == 0 and not word.startswith("-") and not any(map(_is_positional, hints.values())):
            others = f", and its commands are {', '.join(commands)}" if commands else ""
            raise ValueError(
                f"{program} must be followed by options, which begin with --{others}; got "
                f"{word!r}. {help_}"
            )
        if word in commands and not before.startswith("--"):
            raise ValueError(f"{word} must come first: `{program} {word} …`; got it after options.")
        kind_of = hints.get(before[2:].replace("-", "_"), None)
        if "," in word and "tuple[int" in str(kind_of):
            raise ValueError(
                f"{before} takes numbers with spaces between them, such as {before} 0 1 2; got "
                f"{word!r}. Write {before} {word.replace(',', ' ')}."
            )
        before = word


def _peek(words: Sequence[str]) -> argparse.Namespace:
    """The options that say where further settings are; errors are left to the main parser."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--out")
    parser.add_argument("--resume", action="store_true")
    try:
        return parser.parse_known_args(words)[0]
    except argparse.ArgumentError:
        return argparse.Namespace(config=None, out=None, resume=False)


def _read_file(kind: type[Options], path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ValueError(
            f"--config must name a file of settings; got {path}, which does not exist. Check its "
            "path; the config.json in the folder of a run is one."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"--config must name a JSON or TOML file; {path} cannot be read: {error}."
        ) from error
    toml = path.suffix == ".toml"
    try:
        values = tomllib.loads(text) if toml else json.loads(text)
    except ValueError as error:
        form = "TOML" if toml else "JSON, as its name does not end in .toml"
        raise ValueError(f"{path} must hold {form}; got an error: {error}. Mend it.") from error
    if not isinstance(values, dict):
        raise ValueError(
            f'{path} must hold an object of settings, such as {{"steps": 500}}; got a '
            f"{type(values).__name__}."
        )
    return kind.from_config(values)


def _saved(kind: type[Options], out: Path, words: Iterable[str]) -> dict[str, Any] | None:
    """The options of the run to resume; ``None`` if a new run is started by the given options."""
    saved = kind.saved_in(out)
    named = {
        word[2:].partition("=")[0].replace("-", "_") for word in words if word.startswith("--")
    }
    if saved is None and named - {"help"} <= _PLACES - {"config"}:
        got = "has no config.json" if out.exists() else "does not exist"
        raise ValueError(
            f"--resume must find a run in {out}; it {got}. Name the folder of a run by --out, or "
            "start a new one without --resume."
        )
    return saved


def _words(
    kind: type[Any], values: Mapping[str, Any], source: Path, *, foreign: bool = False
) -> list[str]:
    """The words for the values of a file or of a run.

    Raises:
      ValueError: If one is no option of the command; names it.
    """
    hints = typing.get_type_hints(kind, include_extras=True)
    hidden = {name for name, hint in hints.items() if _is_suppressed(hint)}
    options = [field.name for field in dataclasses.fields(kind) if field.name != "config"]
    defaults = {name: _json(value) for name, value in _defaults(kind).items()}
    unknown = [
        name
        for name, value in values.items()
        if name not in options or (name in hidden and value != defaults.get(name))
    ]
    if unknown and foreign:
        raise ValueError(
            f"{source} holds a run of another command: its config.json sets {', '.join(unknown)}, "
            "which this command cannot. Resume it by the command that made it, or choose another "
            "--out."
        )
    if unknown:
        near = {name: difflib.get_close_matches(name, options, n=1) for name in unknown}
        meant = ", ".join(f"{name} for {close[0]}" for name, close in near.items() if close)
        raise ValueError(
            f"{source} must set options of this command; got {', '.join(unknown)}. "
            + (f"Perhaps it says {meant}. " if meant else "")
            + "--help lists them; names have _ for -."
        )
    for name, value in values.items():
        if isinstance(value, Mapping):
            raise ValueError(
                f"{source} must set each option to a value or a list; {name} is an object. Put its "
                "entries at the top."
            )
    return as_words(
        {
            name: value
            for name, value in values.items()
            # An option that may be ``None`` is so by default.
            if name not in hidden and value is not None
        }
    )


def _check_same(saved: Mapping[str, Any], arguments: Any, out: Path) -> None:
    now = as_json(arguments)
    changed = [name for name, value in saved.items() if name in now and now[name] != value]
    if changed:
        differences = "; ".join(f"{k} was {saved[k]!r}, is {now[k]!r}" for k in changed)
        raise ValueError(
            f"{out} holds a run with other settings, so --resume cannot go on with it: "
            f"{differences}. Leave these options out to go on with that run, or choose another "
            "--out for a new one."
        )


def _order_help(kind: type[Any]) -> None:
    """Orders the help: first the options in ``FIRST``, last those of ``Launch``."""
    fields, foremost = kind.__dataclass_fields__, getattr(kind, "FIRST", ())
    launch = {field.name for field in dataclasses.fields(Launch)} - set(foremost)
    first = [name for name in foremost if name in fields]
    middle = [name for name in fields if name not in launch and name not in first]
    # The parser lists options in this order; all of them are keyword-only.
    kind.__dataclass_fields__ = {
        name: fields[name] for name in [*first, *middle, *(n for n in fields if n in launch)]
    }


def _is_suppressed(hint: Any) -> bool:
    return _SUPPRESSED in getattr(hint, "__metadata__", ())


def _is_positional(hint: Any) -> bool:
    return _POSITIONAL in getattr(hint, "__metadata__", ())


def _defaults(kind: type[Any]) -> dict[str, Any]:
    return {
        field.name: field.default
        for field in dataclasses.fields(kind)
        if field.default is not dataclasses.MISSING
    }


def _json(value: Any) -> Any:
    """An option's value in the form of JSON."""
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Path) else value

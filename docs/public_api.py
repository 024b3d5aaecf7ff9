"""Lists the public names and their signatures in one file of the repository.

``python -m docs.public_api`` writes ``docs/public_api.txt``. A test compares it with the library,
so that no public name or signature changes unnoticed.
"""

import dataclasses
import functools
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

FILE = Path(__file__).parent / "public_api.txt"
MODULES = (
    "stn_jax",
    "stn_jax.nn",
    "stn_jax.nn.linen",
    "stn_jax.augmentation",
    "stn_jax.conversions",
    "stn_jax.diagnostics",
    "stn_jax.estimation",
    "stn_jax.fields",
    "stn_jax.geometry",
    "stn_jax.registration",
    "stn_jax.visualize",
)
_HEAD = "# The public names of stn_jax; written by python -m docs.public_api."


@functools.cache
def members() -> dict[str, Any]:
    """Every public name with its module, and its object.

    A module's names are its ``__all__``; if it has none, its functions and classes without a
    leading underscore.
    """
    found = {}
    for module_name in MODULES:
        module = importlib.import_module(module_name)
        for name in getattr(module, "__all__", None) or _defined_in(module):
            found[f"{module_name}.{name}"] = getattr(module, name)
    return found


def names() -> list[str]:
    """The public names, sorted."""
    return sorted(members())


def has_example(name: str) -> bool:
    """Whether the docstring of a public name has an example; true for a constant."""
    member = members()[name]
    return not callable(member) or ">>>" in (inspect.getdoc(member) or "")


def listing() -> str:
    """The list: a line for each name, methods and attributes indented under their class."""
    lines = [_HEAD]
    for name, member in sorted(members().items()):
        lines.append(f"{name}{signature(member)}")
        if inspect.isclass(member):
            lines.extend(f"  .{line}" for line in _parts(member))
    return "\n".join(lines) + "\n"


def _defined_in(module: ModuleType) -> list[str]:
    return [
        name
        for name, member in vars(module).items()
        if not name.startswith("_")
        and (inspect.isfunction(member) or inspect.isclass(member))
        and member.__module__ == module.__name__
    ]


def _parts(member: type) -> Iterator[str]:
    """Methods, properties and fields of the class itself, without inherited ones."""
    fields = [field.name for field in dataclasses.fields(member)] if _is_record(member) else []
    yield from fields
    for name, part in vars(member).items():
        if name in fields or (name.startswith("_") and name != "__call__"):
            continue
        if inspect.isfunction(part):
            yield f"{name}{signature(part)}"
        elif isinstance(part, property):
            yield name
        elif isinstance(part, classmethod):
            yield f"{name}{signature(part.__func__)}"


def _is_record(member: type) -> bool:
    return dataclasses.is_dataclass(member)


def signature(member: Any) -> str:
    """Parameters and defaults as text, without types."""
    if not callable(member):
        return ""
    # The metaclass of Flax modules hides the constructor's parameters.
    signature = inspect.signature(member.__init__ if inspect.isclass(member) else member)
    parameters = [
        parameter.replace(annotation=parameter.empty, default=_readable(parameter.default))
        for parameter in signature.parameters.values()
        if parameter.name not in ("self", "cls")
    ]
    return str(inspect.Signature(parameters))


class _Text:
    """A default as text; its name if its own text contains an address."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def _readable(default: Any) -> Any:
    if inspect.isfunction(default) or inspect.isclass(default):
        return default if default is inspect.Parameter.empty else _Text(default.__name__)
    return default


def main() -> None:
    """Writes the list."""
    FILE.write_text(listing())
    print(f"{FILE.name}: {len(names())} names, {sum(map(has_example, names()))} with an example")


if __name__ == "__main__":
    main()

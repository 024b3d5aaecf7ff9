"""Records that are kept as JSON: frozen dataclasses with a version."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from experiments.engine.files import read_json

_VERSION = "version"
# Not ``Self``, because the type checker at run time refuses it in a method.
_Kind = TypeVar("_Kind", bound="Record")


class Record:
    """A frozen dataclass that becomes a JSON object and is made of one again.

    Fields are JSON values, tuples, records, and mappings from strings to these. A field that a file
    may lack, because older versions did not write it, has a default.

    Attributes:
      VERSION: Raised when the meaning of a field changes. A file without a version is of version 1.
    """

    VERSION: ClassVar[int] = 1

    def to_json(self) -> dict[str, Any]:
        """The record as JSON values, with its version."""
        return {_VERSION: self.VERSION} | {
            field.name: _to_json(getattr(self, field.name)) for field in _fields(type(self))
        }

    @classmethod
    def from_json(cls: type[_Kind], data: Any, where: Path | str = "the JSON object") -> _Kind:
        """The record that a JSON object holds. Entries that are not fields are ignored.

        Args:
          data: The parsed JSON.
          where: Its name in errors.

        Raises:
          ValueError: If it is not an object, lacks an entry, or has a newer version.
        """
        if not isinstance(data, Mapping):
            raise ValueError(f"{where} must hold a JSON object; got {type(data).__name__}.")
        version = data.get(_VERSION, 1)
        if version > cls.VERSION:
            raise ValueError(
                f"{where} is of version {version} and this program knows {cls.__name__} up to "
                f"version {cls.VERSION}. Read it with a newer program."
            )
        hints = typing.get_type_hints(cls)
        given = {field.name for field in _fields(cls) if field.name in data}
        missing = [f.name for f in _fields(cls) if f.name not in given and not _has_default(f)]
        if missing:
            raise ValueError(f"{where} lacks {', '.join(missing)}.")
        return cls(**{name: _from_json(hints[name], data[name], where) for name in given})

    @classmethod
    def read(cls: type[_Kind], path: Path) -> _Kind:
        """The record in a file.

        Raises:
          ValueError: If the file does not hold such a record; names it.
        """
        return cls.from_json(read_json(path), path)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result(Record):
    """The record of a finished experiment.

    Attributes:
      dataset: The name of the data.
      settings: Without the places of data and weights.
      versions, device: The package versions and the device that made it.
    """

    dataset: str
    settings: Mapping[str, Any]
    versions: Mapping[str, str]
    device: str


def _fields(kind: type[Any]) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(kind)


def _has_default(field: dataclasses.Field[Any]) -> bool:
    absent = dataclasses.MISSING
    return field.default is not absent or field.default_factory is not absent


def _to_json(value: Any) -> Any:
    if isinstance(value, Record):
        # Only the outermost record writes its version; it covers the inner ones.
        return {name: each for name, each in value.to_json().items() if name != _VERSION}
    if isinstance(value, Mapping):
        return {str(key): _to_json(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_to_json(each) for each in value]
    return value


def _from_json(hint: Any, value: Any, where: Path | str) -> Any:
    """Converts a JSON value to the type of a field."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if value is None or hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        (inner,) = (part for part in parts if part is not types.NoneType)
        return _from_json(inner, value, where)
    if hint is float and isinstance(value, int):
        # JSON may write a float without a point.
        return float(value)
    if isinstance(hint, type) and issubclass(hint, Record):
        return hint.from_json(value, where)
    if origin is tuple:
        kinds = parts[:1] * len(value) if parts[-1] is Ellipsis else parts
        return tuple(_from_json(k, each, where) for k, each in zip(kinds, value, strict=True))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {key: _from_json(parts[1], each, where) for key, each in value.items()}
    return value

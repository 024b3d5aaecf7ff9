"""Frozen records that keep their recipe: the function that made them, and its arguments.

Two closures of the same formula are different objects, and cannot be pickled; so are two records of
such closures. A record with a recipe is compared, hashed, copied and pickled by the recipe instead.
It is also a pytree: JAX arrays among its arguments are the leaves, everything else is structure.
"""

import dataclasses
import functools
import inspect
import weakref
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax
import numpy as np

from stn_jax import _checks

Parameters = ParamSpec("Parameters")
R = TypeVar("R", bound="Record")

# The records without leaves that are in use, by recipe. An entry vanishes with its record.
_in_use: "weakref.WeakValueDictionary[Any, Any]" = weakref.WeakValueDictionary()


class Record:
    """Base class of frozen dataclasses that keep their recipe; see :func:`maker`, :func:`register`.

    A record without a recipe is compared by its fields.
    """

    @property
    def _recipe(self) -> "Recipe | None":
        return self.__dict__.get("recipe")

    @functools.cached_property
    def _key(self) -> Any:
        """The value that is compared and hashed in place of the record."""
        if self._recipe is not None:
            return self._recipe.key
        return tuple((name, _content(value)) for name, value in self._fields().items())

    def __getattr__(self, name: str) -> Any:
        kind = type(self).__name__
        fields = {each.name for each in dataclasses.fields(self)}  # type: ignore[arg-type]
        raise AttributeError(
            f"this {kind} has placeholders in place of arrays, and no {name!r}. JAX makes such "
            "records while it handles pytrees; use the original."
            if name in fields
            else f"{kind!r} object has no attribute {name!r}."
        )

    def __repr__(self) -> str:
        kind = type(self).__name__
        if "name" not in self.__dict__:
            return f"<{kind} of placeholders: {jax.tree.structure(self)}>"
        return f"<{kind} {self._summary()}>"

    def _summary(self) -> str:
        """The name and the sizes, for ``repr``."""
        raise NotImplementedError

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return isinstance(other, Record) and type(self) is type(other) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    # Records are frozen and hold pure functions, so a copy is the record itself.
    def __copy__(self: R) -> R:
        return self

    def __deepcopy__(self: R, memo: dict[int, Any]) -> R:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        if self._recipe is None:
            return _from_fields, (type(self), self._fields())
        # Keep the record, so that unpickling in this process returns the same object.
        _in_use.setdefault(self._recipe.key, self)
        recipe = self._recipe
        parts = recipe.make, recipe.names, recipe.values, recipe.keywords, recipe.places
        return _from_recipe, parts

    def _fields(self) -> dict[str, Any]:
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        return {each.name: getattr(self, each.name) for each in fields}


@dataclasses.dataclass(frozen=True, eq=False)
class Recipe:
    """How a record was made: ``make(*values)``, the last values by keyword.

    Attributes:
      make: A function that :func:`maker` returned.
      names: Names of the arguments, for messages.
      values: The arguments.
      keywords: Names of the last arguments, which are passed by keyword.
      places: Positions of the arguments that are children of the pytree.
      kind: The class of the record; set when the record is made.
    """

    make: Callable[..., Any]
    names: tuple[str, ...]
    values: tuple[Any, ...]
    keywords: tuple[str, ...]
    places: tuple[int, ...]
    kind: type[Any] = dataclasses.field(init=False)

    @classmethod
    def of(cls, make: Callable[..., Any], bound: inspect.BoundArguments) -> "Recipe":
        """The recipe of one call."""
        bound.apply_defaults()
        variadic = [
            name
            for name, parameter in bound.signature.parameters.items()
            if parameter.kind is parameter.VAR_POSITIONAL
        ]
        names: list[str] = []
        for name in bound.arguments:
            if name in variadic:
                names += [f"{name}[{index}]" for index in range(len(bound.arguments[name]))]
            else:
                names.append(name)
        given = (*bound.args, *bound.kwargs.values())
        values = [_frozen(name, value) for name, value in zip(names, given, strict=True)]
        for name, value in zip(names, values, strict=True):
            _check_argument(make, name, value)
        places = [
            place for place, value in enumerate(values) if isinstance(value, (Record, jax.Array))
        ]
        return cls(make, tuple(names), tuple(values), tuple(bound.kwargs), tuple(places))

    @functools.cached_property
    def key(self) -> Any:
        """The value that is compared and hashed in place of the recipe."""
        return self.make, self.keywords, self.places, tuple(map(_content, self.values))

    @property
    def children(self) -> list[Any]:
        """The arguments that are children of the pytree."""
        return [self.values[place] for place in self.places]

    def has_leaves(self) -> bool:
        """Whether the pytree has leaves."""
        return any(
            not isinstance(child, Record)
            or (child._recipe is not None and child._recipe.has_leaves())
            for child in self.children
        )

    def is_complete(self) -> bool:
        """Whether all children are records and arrays, rather than placeholders of JAX."""
        return all(
            isinstance(child, (jax.Array, np.ndarray))
            or (isinstance(child, Record) and (not child._recipe or child._recipe.is_complete()))
            for child in self.children
        )

    def record(self) -> Any:
        """Makes the record."""
        first = len(self.values) - len(self.keywords)
        options = dict(zip(self.keywords, self.values[first:], strict=True))
        made = self.make.__wrapped__(*self.values[:first], **options)  # type: ignore[attr-defined]
        # A new object, since the maker may return a record that already has a recipe.
        record = object.__new__(type(made))
        record.__dict__.update(made._fields(), recipe=self)
        self.__dict__["kind"] = type(made)
        return record

    @functools.cached_property
    def flat(self) -> tuple[tuple[Any, ...], "_Structure"]:
        """The children and the structure of the pytree."""
        return self._flatten(self.places)

    @functools.cached_property
    def flat_opened(self) -> tuple[tuple[Any, ...], "_Structure"]:
        """Like ``flat``, but NumPy arrays are children, too."""
        arrays = [place for place, v in enumerate(self.values) if isinstance(v, np.ndarray)]
        children, structure = self._flatten(tuple(sorted({*self.places, *arrays})))
        return tuple(Opened(c) if isinstance(c, Record) else c for c in children), structure

    def _flatten(self, places: tuple[int, ...]) -> tuple[tuple[Any, ...], "_Structure"]:
        children = tuple(self.values[place] for place in places)
        rest = tuple(None if i in places else value for i, value in enumerate(self.values))
        return children, _Structure(self, rest, places)


class _Structure:
    """The recipe without its children: the static part of the pytree, compared by content."""

    def __init__(self, recipe: Recipe, rest: tuple[Any, ...], places: tuple[int, ...]) -> None:
        self.make, self.names, self.keywords = recipe.make, recipe.names, recipe.keywords
        self.rest, self.places, self.kind = rest, places, recipe.kind
        self.key = self.make, self.keywords, places, tuple(map(_content, rest))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Structure) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def __repr__(self) -> str:
        arguments = []
        for place, (name, value) in enumerate(zip(self.names, self.rest, strict=True)):
            said = f"{value.dtype}{list(value.shape)}" if isinstance(value, np.ndarray) else value
            arguments.append(f"{name}={'*' if place in self.places else said}")
        return f"{self.make.__name__}({', '.join(arguments)})"

    def record(self, children: tuple[Any, ...]) -> Any:
        """The record with the given children."""
        values = list(self.rest)
        for place, child in zip(self.places, children, strict=True):
            values[place] = child
        recipe = Recipe(self.make, self.names, tuple(values), self.keywords, self.places)
        if recipe.is_complete():
            return recipe.record()
        # JAX put placeholders in place of children, as in a tree of shapes or axes. The function
        # cannot run on them, so make an object without fields.
        holder = object.__new__(self.kind)
        recipe.__dict__["kind"] = self.kind
        holder.__dict__["recipe"] = recipe
        return holder


@jax.tree_util.register_pytree_node_class
class Opened:
    """Wraps a record as an argument of a jitted function; its NumPy arrays are leaves, too.

    The function receives the record itself, and is compiled once for all values of the arrays. With
    the record as a static argument, it would be compiled for each value.
    """

    def __init__(self, record: Record) -> None:
        self.record = record

    def tree_flatten(self) -> tuple[tuple[Any, ...], Any]:
        """The children and the structure; a record without a recipe is its own structure."""
        recipe = self.record._recipe
        if recipe is None:
            return (), self.record
        children, structure = recipe.flat_opened
        return tuple(map(_canonical, children)), structure

    @classmethod
    def tree_unflatten(cls, structure: Any, children: tuple[Any, ...]) -> Any:
        """The record itself."""
        return _unflatten(structure, children)


def _canonical(child: Any) -> Any:
    """Converts a NumPy array to the dtype that JAX would use now.

    JAX 0.10.2 caches the constant that it makes of an array object. If ``jax_enable_x64`` changes
    later, the cached constant has the wrong dtype, and an inner jitted function does not lower.
    """
    if not isinstance(child, np.ndarray):
        return child
    return np.asarray(child, jax.dtypes.canonicalize_dtype(child.dtype))


def maker(make: Callable[Parameters, R]) -> Callable[Parameters, R]:
    """Decorates a function that makes records, so that they keep their recipe.

    The arguments are records, arrays, or anything hashable. Calls with equal arguments, positional
    or by keyword, return the same record while it is in use, and an equal one later.
    """
    signature = inspect.signature(make)

    @functools.wraps(make)
    def wrapped(*args: Parameters.args, **options: Parameters.kwargs) -> R:
        recipe = Recipe.of(wrapped, signature.bind(*args, **options))
        return recipe.record() if recipe.has_leaves() else _interned(recipe)

    return wrapped


def register(kind: type[R]) -> type[R]:
    """Registers a class of records as a pytree, whose leaves are the JAX arrays in the recipe."""

    def flatten(record: R) -> tuple[tuple[Any, ...], Any]:
        recipe = record._recipe
        return ((), record) if recipe is None else recipe.flat

    jax.tree_util.register_pytree_node(kind, flatten, _unflatten)
    return kind


def closed(record: R) -> R:
    """The record with its JAX arrays converted to NumPy, so that it has no leaves.

    Raises:
      TypeError: If an array is traced.
    """
    recipe = record._recipe
    if recipe is None or not recipe.has_leaves():
        return record
    values = list(recipe.values)
    for place in recipe.places:
        child = values[place]
        values[place] = closed(child) if isinstance(child, Record) else np.asarray(child)
    places = tuple(place for place in recipe.places if isinstance(values[place], Record))
    frozen = tuple(map(_frozen, recipe.names, values))
    recipe = Recipe(recipe.make, recipe.names, frozen, recipe.keywords, places)
    return _interned(recipe)


def _unflatten(structure: Any, children: tuple[Any, ...]) -> Any:
    return structure.record(children) if isinstance(structure, _Structure) else structure


def _from_fields(kind: type[Any], fields: dict[str, Any]) -> Any:
    return kind(**fields)


def _from_recipe(*parts: Any) -> Any:
    return _interned(Recipe(*parts))


def _interned(recipe: Recipe) -> Any:
    """The record of a recipe; the same object while that is in use."""
    record = _in_use.get(recipe.key)
    if record is None:
        record = _in_use.setdefault(recipe.key, recipe.record())
    return record


def _frozen(name: str, value: Any) -> Any:
    """Makes an argument immutable; NumPy scalars become Python numbers."""
    if isinstance(value, np.generic):
        return value.item()
    value = _checks.numeric(name, value)
    if isinstance(value, np.ndarray) and value.flags.writeable:
        value = value.copy()
        value.flags.writeable = False
    return value


def _check_argument(make: Callable[..., Any], name: str, value: Any) -> None:
    if isinstance(value, (Record, jax.Array, np.ndarray)):
        return
    try:
        hash(value)
    except TypeError:
        raise TypeError(
            f"{name} of {make.__name__} must be hashable, an array or a record, since the result "
            f"is compared by its arguments; got {value!r}. Pass a tuple in place of a list."
        ) from None


def _content(value: Any) -> Any:
    """The value that is compared and hashed in place of an argument or field."""
    if isinstance(value, jax.core.Tracer):
        return _Traced(value)
    if isinstance(value, (np.ndarray, jax.Array)):
        array = np.asarray(value)
        return isinstance(value, jax.Array), array.dtype.str, array.shape, array.tobytes()
    return type(value), value


class _Traced:
    """A traced array; it has no values to compare, so it is compared by identity."""

    def __init__(self, array: jax.Array) -> None:
        self.array = array

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Traced) and self.array is other.array

    def __hash__(self) -> int:
        raise TypeError(
            "a transform made from traced arrays cannot be hashed, since they have no values yet. "
            "Pass it to a jitted function as an ordinary argument, not as a static one, and make "
            f"modules outside of jit; got {self.array}."
        )

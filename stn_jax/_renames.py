"""Old names that still work for one version, with a warning that names the new one."""

import functools
import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

Function = TypeVar("Function", bound=Callable[..., Any])


def renamed_argument(old: str, new: str) -> Callable[[Function], Function]:
    """Decorates a function whose argument ``new`` used to be called ``old``; it accepts both."""

    def decorate(function: Function) -> Function:
        @functools.wraps(function)
        def accepting_both(*args: Any, **options: Any) -> Any:
            if old in options:
                if new in options:
                    raise TypeError(
                        f"{function.__name__} takes {new}, which was called {old}; got both."
                    )
                _warn(f"The argument {old} of {function.__name__}", new)
                options[new] = options.pop(old)
            return function(*args, **options)

        return cast(Function, accepting_both)

    return decorate


def new_name(module: str, name: str, renames: Mapping[str, str]) -> str | None:
    """Looks up the new name of a renamed object, and warns; ``None`` if it was not renamed."""
    if name not in renames:
        return None
    _warn(f"{module}.{name}", f"{module}.{renames[name]}", depth=2)
    return renames[name]


def _warn(old: str, new: str, depth: int = 1) -> None:
    message = f"{old} is now {new}; the old name will be removed in the next version."
    warnings.warn(message, DeprecationWarning, stacklevel=2 + depth)

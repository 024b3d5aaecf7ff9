"""The spatial transformer as a Flax Linen module; the only file that uses Flax's bridge."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

from flax import linen, nnx
from flax.core import FrozenDict, unfreeze
from flax.linen import Module
from flax.nnx import bridge
from jaxtyping import Array

from stn_jax.nn.spatial_transformer import SpatialTransformer
from stn_jax.transforms import Transform


def spatial_transformer(
    localization: Callable[..., Callable[[Array], Array]],
    transform: Transform,
    *,
    name: str | None = None,
    **options: Any,
) -> Module:
    """A :class:`stn_jax.nn.SpatialTransformer` as a Linen module.

    Use it inside a Linen model or alone. Like every Linen module it has no state; ``init`` makes
    its parameters, in the collection ``"params"``. Call it with images, with ``return_theta=True``
    to get theta along with the output, or with ``nnx_method="localize"`` to get theta alone. A
    :class:`stn_jax.nn.GaussianHead` draws from the random stream ``"theta"``: pass a key for it to
    ``init`` and ``apply``.

    All keys of the parameters are strings: the first layer of a list is ``"0"``. So every format
    that keeps trees of names keeps them, and ``flax.traverse_util.flatten_dict(params, sep="/")``
    works. An older version had whole numbers in their place; its parameters can be applied, too.
    ``nnx.update(module, nnx.restore_int_paths(params))`` moves parameters to an NNX module.

    Args:
      localization: Function that makes the localization network when called with ``rngs=``, such as
        a class of this library with its other arguments bound by ``lambda`` or
        ``functools.partial``.
      transform: The family of transforms.
      name: Name of the submodule, as for every Linen module.
      **options: As in :class:`stn_jax.nn.SpatialTransformer`.

    Returns:
      A Linen module from images ``[batch, height, width, channels]`` to the output.

    Raises:
      TypeError: If ``localization`` is not callable.

    Example:
      >>> import functools
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import stn_jax as stn
      >>> from flax import linen
      >>> from stn_jax import nn as stnn
      >>> from stn_jax.nn.linen import spatial_transformer
      >>> class Model(linen.Module):
      ...     @linen.compact
      ...     def __call__(self, images):
      ...         transform = stn.affine()
      ...         localization = functools.partial(
      ...             stnn.FullyConnectedLocalization, images.shape[1:], transform
      ...         )
      ...         images = spatial_transformer(localization, transform, name="st")(images)
      ...         return linen.Dense(10)(images.reshape(images.shape[0], -1))
      >>> images = jnp.ones((5, 8, 8, 1))
      >>> params = Model().init(jax.random.key(0), images)["params"]
      >>> params["st"]["localization"]["head"]["linear"]["bias"].tolist()
      [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
      >>> Model().apply({"params": params}, images).shape
      (5, 10)

    Reference:
      Jaderberg et al., Spatial Transformer Networks, arXiv:1506.02025, section 3.
    """
    if not callable(localization):
        raise TypeError(
            "localization must make a localization network when called with rngs=, such as "
            "lambda rngs: FullyConnectedLocalization(..., rngs=rngs); "
            f"got {localization!r}."
        )

    return _SpatialTransformer(_by_content(localization), transform, FrozenDict(options), name=name)


class _SpatialTransformer(Module):
    """The module of Flax's bridge; keys of list entries are strings here, and integers there."""

    localization: Callable[..., Callable[[Array], Array]]
    transform: Transform
    options: FrozenDict[str, Any]

    @linen.compact
    def __call__(self, *args: Any, nnx_method: Any = None, **kwargs: Any) -> Any:
        """Calls a method of the NNX module, by default ``__call__``, and returns its result."""
        # Without a parent the inner module holds no variables; each call passes them.
        parts = (self.localization, self.transform)
        inner = bridge.ToLinen(_make, parts, self.options, parent=None)
        assert self.scope is not None
        rngs = {name: self.make_rng(name) for name in self.scope.rngs}
        if self.is_initializing():
            out, made = inner.init_with_output(rngs, *args, nnx_method=nnx_method, **kwargs)
            self._keep(made)
            return out
        variables: Any = self.variables
        out, changed = inner.apply(
            nnx.restore_int_paths(unfreeze(variables)),
            *args,
            nnx_method=nnx_method,
            rngs=rngs,
            mutable=self.scope.mutable or [],
            **kwargs,
        )
        self._keep(changed)
        return out

    def _keep(self, variables: Mapping[str, Any]) -> None:
        for collection, tree in variables.items():
            for name, part in tree.items():
                self.put_variable(collection, name, _with_string_keys(part))


def _with_string_keys(tree: Any) -> Any:
    """Makes every key of nested mappings a string."""
    if not isinstance(tree, Mapping):
        return tree
    return {str(key): _with_string_keys(part) for key, part in tree.items()}


def _make(
    localization: Callable[..., Callable[[Array], Array]],
    transform: Transform,
    *,
    rngs: nnx.Rngs,
    **options: Any,
) -> SpatialTransformer:
    """Makes the NNX module for the bridge.

    It is a top-level function, so that two Linen modules with equal arguments are equal.
    """
    return SpatialTransformer(localization(rngs=rngs), transform, **options)


@dataclasses.dataclass(frozen=True)
class _Partial:
    """A ``functools.partial`` that is compared by its contents rather than by identity."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    keywords: tuple[tuple[str, Any], ...]

    def __call__(self, **options: Any) -> Any:
        return self.function(*self.args, **{**dict(self.keywords), **options})


def _by_content(function: Callable[..., Any]) -> Callable[..., Any]:
    """Makes ``functools.partial`` objects of equal, hashable arguments equal."""
    if not isinstance(function, functools.partial):
        return function
    equal = _Partial(function.func, function.args, tuple(sorted(function.keywords.items())))
    try:
        hash(equal)
    except TypeError:
        return function
    return equal

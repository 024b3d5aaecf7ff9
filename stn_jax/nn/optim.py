"""Labels, learning rates and a regulariser for localization networks, with optax."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float

from stn_jax import _checks
from stn_jax._renames import renamed_argument
from stn_jax._types import AnyArray, Size
from stn_jax.coordinates import regular_grid
from stn_jax.nn.spatial_transformer import SpatialTransformer
from stn_jax.transforms import Transform


def localization_labels(model: Any) -> Any:
    """Labels each parameter of a model as ``"localization"`` or ``"rest"``.

    In a Flax NNX module, ``"localization"`` is a parameter that belongs only to the
    ``localization`` of some :class:`SpatialTransformer`. A parameter that the rest of the model
    uses too, such as one of a shared backbone, is ``"rest"``. A tree of parameters does not say
    which ones are shared; there, ``"localization"`` is a parameter with this word in its path.

    Args:
      model: An NNX module, or a tree of parameters: ``nnx.state(model, nnx.Param)``, gradients, or
        the nested dict of a Linen model.

    Returns:
      A tree like ``nnx.state(model, nnx.Param)``, or like the given tree, with a label in place of
      each parameter. ``optax.partition``, :func:`localization_rate` and :func:`gradient_norms` take
      the tree, or this function itself.

    Note:
      ``nnx.Optimizer(model, tx, wrt=...)`` trains only the parameters that ``wrt`` selects. It
      drops gradients of others without an error: those parameters stay as they are, and clipping by
      the global norm does not count them. So label all parameters, and pass ``wrt=nnx.Param``.

    Example:
      >>> import jax
      >>> import optax
      >>> import stn_jax as stn
      >>> from flax import nnx
      >>> from stn_jax import nn as stnn
      >>> localization = stnn.FullyConnectedLocalization((8, 8, 1), stn.affine(), rngs=nnx.Rngs(0))
      >>> st = stnn.SpatialTransformer(localization, stn.affine())
      >>> model = nnx.Sequential(st, nnx.Linear(1, 3, rngs=nnx.Rngs(1)))
      >>> labels = stnn.localization_labels(model)
      >>> jax.tree.leaves(labels).count("localization"), jax.tree.leaves(labels).count("rest")
      (6, 2)
      >>> rates = {"localization": optax.adam(1e-4), "rest": optax.adam(1e-3)}
      >>> optimizer = nnx.Optimizer(model, optax.partition(rates, labels), wrt=nnx.Param)

    Reference:
      Jaderberg et al., arXiv:1506.02025, appendix A, lowers the localization networks' rates.
    """
    if not isinstance(model, nnx.Module):
        return _labelled(model, lambda path: "localization" in path)
    networks = {
        id(module.localization)
        for _, module in nnx.iter_modules(model, graph=True)
        if isinstance(module, SpatialTransformer)
    }
    visited: set[int] = set()

    def goes_no_deeper(node: Any) -> bool:
        if isinstance(node, nnx.Variable) or id(node) in networks:
            return True
        if not isinstance(node, nnx.Module):
            return False
        # The graph of modules may have cycles.
        seen = id(node) in visited
        visited.add(id(node))
        return seen

    rest = {id(leaf) for leaf in jax.tree.leaves(model, is_leaf=goes_no_deeper)}
    own = {
        path
        for path, value in nnx.iter_graph(model, graph=True)
        if isinstance(value, nnx.Param) and id(value) not in rest
    }
    return _labelled(nnx.state(model, nnx.Param, graph=True), lambda path: path in own)


def localization_rate(
    *,
    multiplier: float = 0.1,
    frozen_steps: int = 0,
    labels: Any = localization_labels,
) -> optax.GradientTransformation:
    """Scales the updates of localization networks, and freezes them for the first steps.

    Put it last in the chain, after the optimizer, whose updates it multiplies. Use 0.1 if the rest
    of the model is trained from scratch. Use as little as 1e-4 if it is pre-trained: a few large
    steps would move the crops away from the object. Some dozens or hundreds of ``frozen_steps`` let
    a new classifier learn before its gradient moves the crops; the optimizer's running averages are
    updated in these steps, too.

    Args:
      multiplier: Factor on the updates of localization parameters; not negative.
      frozen_steps: Number of first steps in which these parameters do not change.
      labels: A tree of labels, or a function from the parameters to the tree. The default looks for
        the name ``localization``; pass ``localization_labels(model)`` if parameters are shared.

    Returns:
      An optax transformation that does not change other updates.

    Raises:
      ValueError: If ``multiplier`` or ``frozen_steps`` is negative; or, at ``init``, if no
        parameter is labelled ``"localization"``.

    Example:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from stn_jax import nn as stnn
      >>> optimizer = optax.chain(
      ...     optax.sgd(1.0), stnn.localization_rate(multiplier=0.1, frozen_steps=1)
      ... )
      >>> params = {"localization": jnp.ones(()), "logits": jnp.ones(())}
      >>> state = optimizer.init(params)
      >>> for _ in range(2):
      ...     updates, state = optimizer.update(params, state)
      ...     print({name: round(update.item(), 6) for name, update in updates.items()})
      {'localization': -0.0, 'logits': -1.0}
      {'localization': -0.1, 'logits': -1.0}

    Reference:
      Jaderberg et al., arXiv:1506.02025, appendix A, lowers the localization networks' rates.
    """
    if not multiplier >= 0:
        raise ValueError(f"multiplier must not be negative; got {multiplier!r}.")
    if not frozen_steps >= 0:
        raise ValueError(f"frozen_steps must not be negative; got {frozen_steps!r}.")

    def mask(params: Any) -> Any:
        tree = labels(params) if callable(labels) else labels
        if "localization" not in jax.tree.leaves(tree):
            raise ValueError(
                "labels must name a localization parameter; got none. Name the attribute that "
                "holds the network localization, or pass labels=localization_labels(model). A "
                "model without a spatial transformer does not need localization_rate."
            )
        return jax.tree.map(lambda label: label == "localization", tree)

    def factor(step: Array) -> Array:
        return jnp.where(step < frozen_steps, 0.0, multiplier)

    return optax.masked(optax.scale_by_schedule(factor), mask)


@renamed_argument("shape", "output_shape")
def identity_penalty(
    transform: Transform,
    theta: Float[AnyArray, "*batch params"],
    output_shape: Sequence[Size] | None = None,
    *,
    align_corners: bool = False,
) -> Float[Array, "*batch"]:
    """A regulariser that pulls transforms towards the identity: the mean of ``|T(p) − p|²``.

    It is a squared length in normalised units, so it compares across families. Add
    ``weight * identity_penalty(...).mean()`` to the loss, and start with a weight of 0.1. Compared
    with a cross-entropy this is small for crops inside the image, and large for crops far outside.

    Args:
      transform: A family of maps from target to source points.
      theta: Parameters ``[..., num_params]``, from :meth:`SpatialTransformer.localize`.
      output_shape: Spatial shape of the lattice over which the mean is taken. A coarse lattice
        suffices; ``None`` takes 8 points along each axis.
      align_corners: As in :func:`stn_jax.regular_grid`.

    Returns:
      ``[...]``, squares of normalised lengths, in float32 or wider.

    Raises:
      ValueError: If the last axis of ``theta`` has the wrong length, or ``output_shape`` does not
        fit.
      TypeError: If ``theta`` is not of a floating dtype.

    Example:
      >>> import jax.numpy as jnp
      >>> import stn_jax as stn
      >>> from stn_jax import nn as stnn
      >>> shifts = jnp.array([[3.0, 4.0], [0.0, 0.0]])
      >>> stnn.identity_penalty(stn.translation(), shifts).tolist()
      [25.0, 0.0]

    Reference:
      The square of :func:`stn_jax.diagnostics.distance_from_identity`. The transforms are those of
      Jaderberg et al., arXiv:1506.02025.
    """
    theta = _checks.batch_of_theta(theta, transform.num_params, transform.name)
    output_shape = transform.ndim * (8,) if output_shape is None else output_shape
    shape = _checks.spatial_shape("output_shape", output_shape, transform.ndim)
    points = regular_grid(shape, align_corners=align_corners, dtype=theta.dtype)

    def penalty(theta: Array) -> Array:
        return jnp.mean(jnp.sum(transform.displacement(theta, points) ** 2, axis=-1))

    for _ in theta.shape[:-1]:
        penalty = jax.vmap(penalty)
    return penalty(theta)


def _labelled(tree: Any, is_localization: Callable[[tuple[Any, ...]], bool]) -> Any:
    """A label in place of each parameter, by its path in the model.

    A label replaces a whole Flax variable: ``nnx.Optimizer`` passes to optax sometimes variables
    and sometimes their values, and the label then fits both.
    """

    def label(path: tuple[Any, ...], _: Any) -> str:
        is_own = is_localization(tuple(getattr(key, "key", None) for key in path))
        return "localization" if is_own else "rest"

    is_variable = lambda node: isinstance(node, nnx.Variable)  # noqa: E731
    return jax.tree_util.tree_map_with_path(label, tree, is_leaf=is_variable)

"""Training a localization network along with the rest; the only file here that knows optax."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float

from stn_jax import _checks
from stn_jax._renames import renamed_argument
from stn_jax._types import AnyArray
from stn_jax.coordinates import regular_grid
from stn_jax.nn.spatial_transformer import SpatialTransformer
from stn_jax.transforms import Transform


def localization_labels(model: Any) -> Any:
    """Tells the parameters of localization networks from those of the rest of a model.

    Of a Flax NNX module, they are the parameters that are reached through the ``localization`` of
    a :class:`SpatialTransformer` alone: one that the rest of the model has too, such as a shared
    backbone's, belongs to the rest. Of a tree of parameters, which holds what is shared once only,
    they are those with a ``"localization"`` in their path.

    Args:
      model: An NNX module, or a tree of parameters: ``nnx.state(model, nnx.Param)``, gradients, or
        the nested dict of a Linen model.

    Returns:
      ``"localization"`` or ``"rest"`` in place of each parameter: a tree like
      ``nnx.state(model, nnx.Param)``, or like the tree given, for ``optax.partition``, which takes
      this function itself as well, :func:`localization_rate` and :func:`gradient_norms`.

    Note:
      ``nnx.Optimizer(model, tx, wrt=...)`` says by ``wrt`` which parameters it trains. Gradients of
      more are cut to these without an error: the others stay as they are, and a clip by the global
      norm does not count them. So label all parameters, and pass ``wrt=nnx.Param``.

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
        # A graph of modules may lead back to one of them.
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
    """Slows the localization networks down, and holds them still at first.

    Put it last, behind the optimizer: it multiplies what the optimizer would change. Take a tenth
    beside a network trained from nothing, and as little as 1e-4 beside a pre-trained one, whose
    crops a few large steps would spoil. Some dozens or hundreds of ``frozen_steps`` let a fresh
    classifier learn what it looks at before its gradient moves the crops; the optimizer's averages
    run meanwhile.

    Args:
      multiplier: Factor on the updates of localization parameters; not negative.
      frozen_steps: Number of first steps in which they do not move.
      labels: A tree of labels, or a function from the parameters to it. The default goes by the
        name ``localization``; pass ``localization_labels(model)`` where parameters are shared.

    Returns:
      An optax transformation that leaves all other updates as they are.

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
                "labels must name a localization parameter; got none. Call the attribute that "
                "holds the network localization, pass labels=localization_labels(model), or leave "
                "localization_rate out for a model without a spatial transformer."
            )
        return jax.tree.map(lambda label: label == "localization", tree)

    def factor(step: Array) -> Array:
        return jnp.where(step < frozen_steps, 0.0, multiplier)

    return optax.masked(optax.scale_by_schedule(factor), mask)


@renamed_argument("shape", "output_shape")
def identity_penalty(
    transform: Transform,
    theta: Float[AnyArray, "*batch params"],
    output_shape: Sequence[int] | None = None,
    *,
    align_corners: bool = False,
) -> Float[Array, "*batch"]:
    """A regulariser that pulls transforms towards the identity: the mean of ``|T(p) − p|²``.

    It measures all families alike, in normalised units of the image, whatever their parameters
    mean. Add ``weight * identity_penalty(...).mean()`` to the loss, with a weight of 0.1 to begin
    with: beside a cross-entropy that is little for crops inside the image and much far outside.

    Args:
      transform: A family of maps from target to source points.
      theta: Its parameters ``[..., num_params]``, as :meth:`SpatialTransformer.localize` gives.
      output_shape: Spatial shape of the lattice over which the mean is taken; a coarse one does,
        and 8 points along each axis are taken when ``None``.
      align_corners: As in :func:`stn_jax.regular_grid`.

    Returns:
      ``[...]``, squares of normalised lengths, in float32 at least.

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
      The square of :func:`stn_jax.diagnostics.distance_from_identity`; for images and their
      distortions see Jaderberg et al., arXiv:1506.02025.
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

    In place of a whole Flax variable, since an ``nnx.Optimizer`` shows optax at times the variables
    and at times their values, and a label stands for either.
    """

    def label(path: tuple[Any, ...], _: Any) -> str:
        is_own = is_localization(tuple(getattr(key, "key", None) for key in path))
        return "localization" if is_own else "rest"

    is_variable = lambda node: isinstance(node, nnx.Variable)  # noqa: E731
    return jax.tree_util.tree_map_with_path(label, tree, is_leaf=is_variable)

"""Parameters of a Flax model from the state dict of a PyTorch model."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# PyTorch's names of the parameters of a layer: convolution, dense, batch norm, embedding.
_PARTS = {
    "kernel": "weight",
    "bias": "bias",
    "scale": "weight",
    "embedding": "weight",
    "mean": "running_mean",
    "var": "running_var",
}
# A count of batches, which no layer of Flax keeps.
_COUNTER = "num_batches_tracked"
_COLLECTIONS = ("params", "batch_stats")
# An error names at most this many tensors.
_MOST_NAMES = 5


def from_pytorch(
    state_dict: Mapping[str, Any],
    params: Any,
    *,
    names: Mapping[str, str] | None = None,
    flattened: Mapping[str, Sequence[int]] | None = None,
) -> Any:
    """The parameters of a Flax model from the state dict of a PyTorch model of the same layers.

    It reorders convolution kernels from ``[out, in, height, width]`` to ``[height, width, in,
    out]``, in any number of spatial axes, and transposes dense kernels. A dense layer behind a
    flatten sees the features in another order here, since maps are channels-last: ``flattened``
    gives the shape of its maps, and its kernel is reordered, too. PyTorch is not needed.

    Args:
      state_dict: PyTorch's names and tensors, as NumPy arrays or as tensors on the CPU, such as
        ``model.state_dict()`` or ``safetensors.numpy.load_file(path)``. Counters of batches are
        ignored.
      params: Parameters to replace: ``nnx.state(model, (nnx.Param, nnx.BatchStat))``, or the nested
        dict of a Linen model, ``variables["params"]`` or, with batch statistics, ``variables``.
        They give shapes and dtypes.
      names: The modules that are called otherwise here, ``{PyTorch's name: path here}``, such as
        ``{"fc_loc.2": "st.localization.head.linear"}``. A module's content moves with it. If
        several names match, the longest counts; ``""`` is the whole model.
      flattened: For each dense layer behind a flatten, by PyTorch's name, the shape ``(channels,
        height, width)`` of one example's maps in PyTorch, or ``(features,)`` for vectors. It may
        leave out a dense layer with as many inputs as another layer has outputs: those are taken
        to be vectors.

    Returns:
      A tree like ``params``, of JAX arrays. For an NNX model pass it to ``nnx.update``.

    Raises:
      ValueError: If parameters or tensors are left over, shapes do not fit, an entry of ``names``
        or ``flattened`` names nothing, or no layer has as many outputs as a dense layer that is
        not in ``flattened`` has inputs.

    Note:
      A head of this library scales theta's distance from the identity, and PyTorch's linear layers
      do not: give the localization network ``head=functools.partial(stnn.RegressionHead,
      scale=1.0)``. Transposed convolutions are not converted: PyTorch keeps their kernels in
      another order, which a square kernel does not show. ``grid_sample`` and ``affine_grid`` of
      PyTorch have ``align_corners=False`` by default, as here; pass ``align_corners=True`` on where
      the model does.

    Example:
      >>> import numpy as np
      >>> from flax import nnx
      >>> from stn_jax import nn as stnn
      >>> class Model(nnx.Module):
      ...     def __init__(self, rngs):
      ...         self.conv = nnx.Conv(1, 4, (3, 3), padding="VALID", rngs=rngs)
      ...         self.logits = nnx.Linear(4 * 6 * 5, 10, rngs=rngs)
      >>> state_dict = {
      ...     "conv.weight": np.ones((4, 1, 3, 3), np.float32),
      ...     "conv.bias": np.zeros(4, np.float32),
      ...     "fc.weight": np.arange(10 * 120.0).reshape(10, 120),
      ...     "fc.bias": np.zeros(10, np.float32),
      ... }
      >>> model = Model(nnx.Rngs(0))
      >>> params = stnn.from_pytorch(
      ...     state_dict, nnx.state(model), names={"fc": "logits"}, flattened={"fc": (4, 6, 5)}
      ... )
      >>> nnx.update(model, params)
      >>> model.conv.kernel.shape
      (3, 3, 1, 4)
      >>> model.logits.kernel[:5, 0].tolist()  # the four channels of a pixel, then the next pixel
      [0.0, 30.0, 60.0, 90.0, 1.0]

    Reference:
      PyTorch, ``torch.nn.Conv2d`` and ``torch.nn.Linear``; Flax, ``nnx.Conv`` and ``nnx.Linear``.
    """
    tensors = {
        name: np.asarray(tensor)
        for name, tensor in state_dict.items()
        if name.rpartition(".")[2] != _COUNTER
    }
    maps = _shapes_of_maps(tensors, flattened or {})
    found = {place: name for place, name in _places(tensors, names or {})}
    leaves, structure = jax.tree_util.tree_flatten_with_path(params)
    wanted = [_path(keys) for keys, _ in leaves]
    places = {path: (path.rpartition(".")[0], _part(path)) for path in wanted}
    _refuse(
        "params holds parameters that state_dict has no tensors for",
        [path for path in wanted if places[path] not in found],
    )
    _refuse(
        "state_dict holds tensors that params has no parameters for",
        [name for place, name in found.items() if place not in places.values()],
    )
    converted = [
        _converted(path, found[places[path]], tensors, leaf, maps)
        for path, (_, leaf) in zip(wanted, leaves, strict=True)
    ]
    return jax.tree_util.tree_unflatten(structure, converted)


def _path(keys: tuple[Any, ...]) -> str:
    """The dotted path of a leaf, without Linen's collection and a variable's ``.value``."""
    parts = [str(key.key if hasattr(key, "key") else key.idx) for key in keys if _is_part(key)]
    return ".".join(parts[1:] if parts[0] in _COLLECTIONS else parts)


def _is_part(key: Any) -> bool:
    return not isinstance(key, jax.tree_util.GetAttrKey)


def _part(path: str) -> str:
    """PyTorch's name of a parameter."""
    own = path.rpartition(".")[2]
    return _PARTS.get(own, own)


def _places(
    tensors: Mapping[str, Any], names: Mapping[str, str]
) -> Iterator[tuple[tuple[str, str], str]]:
    """For each tensor, the path of its module here, and PyTorch's name of the parameter."""
    used = set()
    for tensor in tensors:
        module, _, part = tensor.rpartition(".")
        parts = module.split(".") if module else []
        for length in range(len(parts), -1, -1):
            prefix = ".".join(parts[:length])
            if prefix in names:
                used.add(prefix)
                parts = [*filter(None, [names[prefix]]), *parts[length:]]
                break
        yield (".".join(parts), part), tensor
    _refuse("names holds names that no module of state_dict has", sorted(names.keys() - used))


def _shapes_of_maps(
    tensors: Mapping[str, np.ndarray], flattened: Mapping[str, Sequence[int]]
) -> dict[str, tuple[int, ...]]:
    """The shape of the maps in front of dense layers; checks that each fits and none is missing."""
    dense = {
        name.rpartition(".")[0]: tensor
        for name, tensor in tensors.items()
        if name.rpartition(".")[2] == "weight" and tensor.ndim == 2
    }
    _refuse(
        "flattened holds names that no dense layer of state_dict has",
        sorted(flattened.keys() - dense.keys()),
    )
    outputs = {tensor.shape[0] for name, tensor in tensors.items() if tensor.ndim >= 2}
    for name, tensor in dense.items():
        inputs = tensor.shape[1]
        if name in flattened and math.prod(flattened[name]) != inputs:
            raise ValueError(
                f"flattened[{name!r}] must be the shape (channels, height, width) of {inputs} "
                f"features, the inputs of that layer; got {tuple(flattened[name])}, "
                f"{math.prod(flattened[name])} features."
            )
        if name not in flattened and inputs not in outputs:
            raise ValueError(
                f"flattened must have an entry for {name!r}, which has {inputs} inputs, and no "
                f"layer of state_dict has {inputs} outputs, so they are flattened maps or images. "
                "Give the shape (channels, height, width) that one example has before the flatten "
                f"in PyTorch; if the inputs are vectors, ({inputs},)."
            )
    return {name: tuple(shape) for name, shape in flattened.items()}


def _converted(
    path: str,
    name: str,
    tensors: Mapping[str, np.ndarray],
    leaf: Any,
    maps: Mapping[str, tuple[int, ...]],
) -> jax.Array:
    """The tensor as the parameter of this path; checks its shape."""
    tensor, module = tensors[name], name.rpartition(".")[0]
    given, own = tensor.shape, path.rpartition(".")[2]
    if own == "kernel" and tensor.ndim >= 2:
        if module in maps:
            # PyTorch flattens features as channels, height, width; Flax as height, width, channels.
            tensor = np.moveaxis(tensor.reshape(-1, *maps[module]), 1, -1).reshape(given)
        tensor = np.moveaxis(tensor, (1, 0), (-2, -1))
    if tensor.shape != leaf.shape:
        raise ValueError(
            f"state_dict[{name!r}] of shape {given} must fit the parameter {path} of shape "
            f"{leaf.shape}; here it has shape {tensor.shape}. Make the layer with the sizes that "
            "it has in PyTorch, or name another one in names."
        )
    return jnp.asarray(tensor, jax.dtypes.canonicalize_dtype(leaf.dtype))


def _refuse(problem: str, names: Collection[str]) -> None:
    """Raises a ``ValueError`` that lists the names, if there are any."""
    if names:
        first = ", ".join(list(names)[:_MOST_NAMES])
        more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
        raise ValueError(
            f"{problem}: {first}{more}. If a module has another path here, give it in names; "
            "convert by hand layers that only one of the models has."
        )

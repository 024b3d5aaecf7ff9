"""Reads published weights from a local file."""

from collections.abc import Collection
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from safetensors import SafetensorError, safe_open

from experiments.models.backbones.base import Backbone

# An error names at most this many tensors.
_MOST_NAMES = 5
# PyTorch stores a counter of batches, which no network reads.
_COUNTER = ".num_batches_tracked"
_FLOATING = ("F64", "F32", "F16")


def load_weights(backbone: Backbone, path: Path) -> None:
    """Replaces a backbone's weights by published ones.

    Args:
      backbone: The module, which is changed.
      path: A safetensors file with the names of :meth:`Backbone.tensor_name`: those of torchvision
        and timm, or for BN-Inception of pretrainedmodels.
        ``safetensors.torch.save_file(model.state_dict(), path)`` writes one from a PyTorch model.
        Classification heads are ignored, and weights in other precisions become float32.

    Raises:
      ValueError: If the file is missing or corrupt, or tensors are missing, superfluous, of other
        shapes or dtypes, or not finite. The backbone is then as it was.
    """
    paths = {
        backbone.tensor_name(tuple(map(str, place))): (place, variable.shape)
        for place, variable in nnx.to_flat_state(nnx.state(backbone, (nnx.Param, nnx.BatchStat)))
    }
    try:
        with safe_open(path, framework="numpy") as file:
            found = {
                name
                for name in file.keys()  # noqa: SIM118
                if not name.endswith(_COUNTER) and not name.startswith(backbone.heads)
            }
            network = f"{type(backbone).__name__}'s"
            _refuse(path, f"lacks {network} tensors", paths.keys() - found)
            _refuse(path, f"holds tensors that are none of {network}", found - paths.keys())
            for name, (_, shape) in paths.items():
                there = file.get_slice(name)
                _check(path, name, there.get_shape(), there.get_dtype(), _theirs(shape))
            tensors = {name: _ours(file.get_tensor(name)) for name in paths}
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"{path} is not a readable safetensors file: {error}. Write one from a PyTorch model "
            "by safetensors.torch.save_file(model.state_dict(), path)."
        ) from error
    _refuse(
        path,
        "holds numbers that are not finite, in",
        {name for name, tensor in tensors.items() if not np.isfinite(tensor).all()},
    )
    state = {place: jax.device_put(tensors[name]) for name, (place, _) in paths.items()}
    nnx.update(backbone, nnx.from_flat_state(state))


def _theirs(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape in PyTorch's layout; a kernel has filters, channels, rows, columns."""
    return (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else shape


def _ours(tensor: np.ndarray) -> np.ndarray:
    tensor = tensor.astype(np.float32)
    return tensor.transpose(2, 3, 1, 0) if tensor.ndim == 4 else tensor


def _check(path: Path, name: str, shape: list[int], dtype: str, expected: tuple[int, ...]) -> None:
    if tuple(shape) != expected or dtype not in _FLOATING:
        raise ValueError(
            f"{path}: {name} must be {' | '.join(_FLOATING)} of shape {expected}; got {dtype} of "
            f"shape {tuple(shape)}. Give weights of this very network."
        )


def _refuse(path: Path, problem: str, names: Collection[str]) -> None:
    """Raises a ``ValueError`` that lists the names, if there are any."""
    if names:
        first = sorted(names)[:_MOST_NAMES]
        more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
        raise ValueError(
            f"{path} {problem}: {', '.join(first)}{more}. Give weights of this very network."
        )

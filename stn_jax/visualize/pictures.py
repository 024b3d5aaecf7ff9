"""Shows images of any range, dtype and number of channels, and rows of inputs above outputs."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import ArrayLike, Shaped
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from stn_jax import _checks
from stn_jax._types import AnyArray
from stn_jax.transforms.base import Transform
from stn_jax.visualize.drawing import COLORS, draw_grid, draw_regions, near
from stn_jax.visualize.geometry import region_outline

Number = float | int

_GREY = "#666666"
_OUTSIDE = "#e4e4e4"
# Largest margin around the image that is added to show a region, as a share of the image's size.
_LARGEST_MARGIN = 0.5


def show_image(
    axes: Axes,
    image: Shaped[AnyArray, "height width channels"],
    *,
    value_range: tuple[Number, Number] | None = None,
    margin: Number = 0.0,
) -> AxesImage:
    """Shows an image of any real dtype, without ticks.

    Three channels are shown as colours, four as colours and opacity; for any other number, the
    brightest channel is shown in grey. Pixels that are not finite are transparent.

    Args:
      axes: Matplotlib axes.
      image: ``[height, width, channels]``.
      value_range: The values shown black and white; values outside are clipped. ``None`` means 0 to
        255 for uint8, 0 to 1 for other images within that range, and otherwise the smallest to the
        largest finite value.
      margin: Width of the margin around the image, as a share of the image's size.

    Returns:
      The image that was added.

    Raises:
      ValueError: If ``image`` has not three axes, or the range is empty.

    Example:
      >>> import numpy as np
      >>> from matplotlib.figure import Figure
      >>> from stn_jax.visualize import show_image
      >>> shown = show_image(Figure().add_subplot(), np.array([[[-2.0], [0.0], [2.0]]]))
      >>> shown.get_array()[..., 0].tolist()  # black, grey and white
      [[0.0, 0.5, 1.0]]

    Reference:
      The grey of many channels: the brightest, as in a maximum intensity projection.
    """
    pixels = np.asarray(image)
    if pixels.ndim != 3:
        raise ValueError(f"image must be [height, width, channels]; got shape {pixels.shape}.")
    low, high = _value_range(pixels) if value_range is None else value_range
    if not low < high:
        raise ValueError(f"value_range must be (low, high), low < high; got {(low, high)}.")
    pixels = (pixels.astype(np.float32) - low) / (high - low)
    height, width, channels = pixels.shape
    opacity = pixels[..., 3:] if channels == 4 else np.ones_like(pixels[..., :1])
    opacity = np.where(np.isfinite(pixels).all(axis=-1, keepdims=True), opacity, 0)
    colors = pixels[..., :3] if channels in (3, 4) else pixels.max(axis=-1, keepdims=True)
    colors = np.broadcast_to(colors, (height, width, 3))
    shown = axes.imshow(
        np.nan_to_num(np.concatenate([colors, opacity], axis=-1)).clip(0, 1),
        interpolation="nearest",
    )
    axes.set(xticks=[], yticks=[], facecolor=_OUTSIDE)
    axes.set_xlim(-0.5 - margin * width, width - 0.5 + margin * width)
    axes.set_ylim(height - 0.5 + margin * height, -0.5 - margin * height)
    axes.spines[:].set_visible(False)
    return shown


def strip(
    images: Shaped[AnyArray, "batch height width channels"],
    transform: Transform,
    theta: ArrayLike,
    outputs: Shaped[AnyArray, "batch *parallel out_height out_width channels"],
    *,
    titles: Sequence[str] | None = None,
    labels: Sequence[str] | None = None,
    grid: bool | None = None,
    every: int | None = None,
    align_corners: bool = False,
    colors: Sequence[str] = COLORS,
    value_range: tuple[Number, Number] | None = None,
    margin: Number | None = None,
    column_width: Number = 1.5,
) -> Figure:
    """Draws inputs with the regions that are read, above the outputs; one column per example.

    N parallel transforms give N rows of outputs, framed in the colours of their regions.

    Args:
      images: The inputs.
      transform: A 2-D family.
      theta: Parameters ``[batch, num_params]``, or ``[batch, N, num_params]``.
      outputs: ``[batch, height, width, channels]``, or ``[batch, N, height, width, channels]``.
      titles: Texts above the columns.
      labels: Names of the N transforms, written beside the rows and, where N > 1, at the regions.
      grid: Whether to draw the sampling grids, too. ``None`` draws them if N = 1; several grids
        would hide each other.
      every: As in :func:`grid_lines`.
      align_corners: As in :func:`stn_jax.warp`.
      colors: As in :func:`draw_regions`.
      value_range: As in :func:`show_image`, computed from all inputs if ``None``; used for inputs
        and outputs.
      margin: As in :func:`show_image`, for the inputs. ``None`` makes it wide enough for the
        regions, up to half of the image's size.
      column_width: In inches.

    Returns:
      The figure, without a window; save it with ``figure.savefig("strip.png")``.

    Raises:
      ValueError: If shapes or numbers of texts do not fit, and as in :func:`grid_lines`.
      TypeError: As in :func:`region_outline`.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import stn_jax as stn
      >>> from stn_jax import visualize
      >>> images = jax.random.uniform(jax.random.key(0), (5, 8, 8, 3))
      >>> theta = jnp.tile(jnp.array([0.5, 0.0, 0.0]), (5, 1))
      >>> transform = stn.attention()
      >>> crops = jax.vmap(lambda image, theta: stn.warp(image, transform, theta))(images, theta)
      >>> figure = visualize.strip(images, transform, theta, crops)
      >>> len(figure.axes)  # two rows of five
      10

    Reference:
      Jaderberg et al., Spatial Transformer Networks, arXiv:1506.02025, figures 1 and 4.
    """
    inputs, results = np.asarray(images), np.asarray(outputs)
    theta = _checks.as_array("theta", theta)
    parallel, results = _parallel(inputs, transform, theta, results)
    theta = theta.reshape(len(inputs), parallel, -1)
    _check_texts("titles", titles, len(inputs), "column")
    _check_texts("labels", labels, parallel, "transform")
    image_shape, output_shape = inputs.shape[1:3], results.shape[2:4]
    if value_range is None:
        value_range = _value_range(inputs)
    if margin is None:
        outlines = [
            region_outline(transform, each, image_shape, align_corners=align_corners)
            for each in theta.reshape(-1, theta.shape[-1])
        ]
        margin = _margin(np.stack(outlines), image_shape)
    names = labels or (["output"] if parallel == 1 else [str(k + 1) for k in range(parallel)])
    output_shapes = [output_shape] * parallel
    figure, axes = _layout(
        len(inputs), image_shape, output_shapes, column_width, titles is not None
    )
    for row, name in zip(axes, ["input", *names], strict=True):
        row[0].set_ylabel(name, color=_GREY)
    for k, column in enumerate(axes.T):
        show_image(column[0], inputs[k], value_range=value_range, margin=margin)
        if titles is not None:
            column[0].set_title(titles[k], fontsize=9)
        for n in range(parallel):
            color = colors[n % len(colors)]
            if grid or (grid is None and parallel == 1):
                draw_grid(
                    column[0],
                    transform,
                    theta[k, n],
                    image_shape,
                    output_shape=output_shape,
                    every=every,
                    align_corners=align_corners,
                    color=color,
                )
            show_image(column[n + 1], results[k, n], value_range=value_range)
            column[n + 1].spines[:].set(visible=True, color=color, linewidth=2)
        draw_regions(
            column[0],
            transform,
            theta[k],
            image_shape,
            align_corners=align_corners,
            colors=colors,
            labels=names if parallel > 1 else None,
        )
    return figure


def _parallel(
    images: np.ndarray, transform: Transform, theta: ArrayLike, outputs: np.ndarray
) -> tuple[int, np.ndarray]:
    """The number of parallel transforms, and the outputs with an axis for them."""
    parallel = outputs.shape[1:-3]
    expected = (len(images), *parallel, transform.num_params)
    if len(outputs) != len(images) or len(parallel) > 1 or np.shape(theta) != expected:
        raise ValueError(
            "theta and outputs must be [batch, num_params] and [batch, height, width, channels], "
            f"or [batch, N, …] both, for {len(images)} images and {transform!r}; got shapes "
            f"{np.shape(theta)} and {outputs.shape}."
        )
    count = parallel[0] if parallel else 1
    return count, outputs.reshape(len(images), count, *outputs.shape[-3:])


def _check_texts(name: str, texts: Sequence[str] | None, count: int, thing: str) -> None:
    if texts is not None and len(texts) != count:
        raise ValueError(f"{name} must be {count} texts, one for each {thing}; got {len(texts)}.")


def _value_range(images: np.ndarray) -> tuple[float, float]:
    """The values that are shown black and white."""
    if images.dtype == np.uint8:
        return 0.0, 255.0
    values = images.astype(np.float32)
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    # Interpolation may round to values slightly outside.
    usual = low > -1e-3 and high < 1 + 1e-3
    return (0.0, 1.0) if usual or low == high else (low, high)


def _margin(outlines: np.ndarray, image_shape: Sequence[int]) -> float:
    """How far regions reach outside the image, as a share of its size, limited."""
    size = np.array(image_shape[::-1], np.float32)
    share = np.abs((near(outlines, image_shape) + 0.5) / size - 0.5) - 0.5
    if np.isnan(share).all():
        return 0.0
    # Add room for the dots and the thick lines.
    return float(np.clip(np.nanmax(share) + 0.03, 0.03, _LARGEST_MARGIN))


def _layout(
    columns: int,
    image_shape: Sequence[int],
    output_shapes: Sequence[Sequence[int]],
    column_width: Number,
    with_titles: bool,
) -> tuple[Figure, np.ndarray]:
    """A figure whose rows are as high as their images, and its axes ``[rows, columns]``."""
    ratios = [height / width for height, width in (image_shape, *output_shapes)]
    # Add the space that constrained layout puts between images, and room for names and titles.
    width = column_width * columns + 0.4
    height = (column_width - 0.1) * sum(ratios) + 0.1 * len(ratios) + 0.25 * with_titles
    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(ratios), columns, squeeze=False, height_ratios=ratios)
    return figure, axes

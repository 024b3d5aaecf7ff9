"""Writes the gallery from the library's own tables, so that new members appear in it.

The page is a notebook: each section holds the lines that make its picture; the build runs them.
Families are the functions of :mod:`stn_jax.transforms` that return a transform; kernels and
paddings come from the sampler's tables.
"""

import inspect
from collections.abc import Callable
from pathlib import Path

import stn_jax
from stn_jax import transforms
from stn_jax.sampling.kernels import KERNELS
from stn_jax.sampling.padding import PADDINGS

# Example values of arguments without a default, by the parameter's name.
ARGUMENTS = {
    "shape": "(5, 5)",
    "transform": "stn.similarity()",
    "transforms": "stn.rigid(), stn.thin_plate_spline()",
    "radius": "0.2",
    "values": "{0: 0.7}",
    "aspect": "1.5",
    "group": '"projective"',
}

_HEAD = '''\
---
file_format: mystnb
kernelspec:
  name: python3
  display_name: Python 3
---

# Gallery

Every transform, kernel and padding, and antialiasing, each with the lines that made its picture.
This page is written from the library's own tables when the documentation is built.

A photograph to work on, and two functions that draw; `moved` gives a theta near the identity, by
which points move by 0.2 of the image's half side on average.

```{code-cell} python
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_sample_image

import stn_jax as stn
from stn_jax import diagnostics, visualize

photo = load_sample_image("china.jpg")[:420, 100:520] / 255
image = jnp.asarray(photo.reshape(140, 3, 140, 3, 3).mean(axis=(1, 3)), jnp.float32)
distance = jax.jit(diagnostics.distance_from_identity, static_argnums=(0, 2))


def moved(transform, seed=1):
    noise = 0.01 * np.random.default_rng(seed).uniform(-1, 1, transform.num_params)
    moves = distance(transform, transform.identity + noise, (16, 16))
    return jnp.asarray(transform.identity + 0.2 / moves * noise, jnp.float32)


def show(transform, theta, warped):
    """Draws the region that the warp reads from the image, and the warped image."""
    _, (before, after) = plt.subplots(1, 2, figsize=(6.4, 3.2))
    visualize.show_image(before, image, margin=0.2)
    visualize.draw_grid(before, transform, theta, image.shape[:2])
    visualize.draw_region(before, transform, theta, image.shape[:2])
    visualize.show_image(after, warped)


def show_kernel(kernel, large):
    """The weight of a pixel against its distance, and an image enlarged."""
    _, (left, right) = plt.subplots(1, 2, figsize=(6.4, 3.2))
    t = jnp.linspace(-3.2, 3.2, 400)
    impulse = jnp.zeros((1, 9, 1)).at[0, 4].set(1.0)
    points = stn.normalized_from_pixels(jnp.stack([t + 4, 0 * t], axis=-1), (1, 9))
    left.plot(t, stn.grid_sample(impulse, points, kernel=kernel, padding="border"))
    left.set(xlabel="distance in pixels", ylim=(-0.3, 1.1))
    left.grid(alpha=0.3)
    visualize.show_image(right, large)
```
'''

_FAMILY = """\
### {name}

{{func}}`stn_jax.{name}`: {summary}

```{{code-cell}} python
transform = stn.{name}({arguments})
theta = moved(transform)
show(transform, theta, stn.warp(image, transform, theta))
```
"""

_KERNEL = """\
### {name}

```{{code-cell}} python
zoom = jnp.array([0.12, 0.0, -0.25])  # scale, tx, ty
large = stn.warp(image, stn.attention(), zoom, kernel={kernel})
show_kernel({kernel}, large)
```
"""

_PADDING = """\
### {name}

```{{code-cell}} python
wide = jnp.array([2.2, 0.3, 0.0, 0.0])  # scale, angle, tx, ty
show(stn.similarity(), wide, stn.warp(image, stn.similarity(), wide, padding="{name}"))
```
"""

_ANTIALIASING = """\
## Antialiasing

Rings that grow finer outwards, seen at a slant: where an output pixel covers many pixels of the
input, `antialias=True` reads their mean.

```{code-cell} python
x, y = np.meshgrid(*2 * [np.linspace(-1, 1, 400)])
rings = jnp.asarray(0.5 + 0.5 * np.cos(300 * (x**2 + y**2))[..., None], jnp.float32)
slant = jnp.array([0.36, 0.0, 0.0, 0.0, 0.9, 0.54, 0.0, 0.6])
options = {"output_shape": (128, 128), "padding": "border"}
_, panels = plt.subplots(1, 2, figsize=(6.4, 3.4))
for axes, antialias in zip(panels, (False, True)):
    warped = stn.warp(rings, stn.projective(), slant, antialias=antialias, **options)
    visualize.show_image(axes, warped)
    axes.set_title(f"{antialias=}")
```
"""


def families() -> dict[str, Callable[..., stn_jax.Transform]]:
    """The public functions that return a transform, by their number of parameters.

    Linear families come first, and what is made of other transforms last.
    """
    found = {}
    for name in transforms.__all__:
        member = getattr(stn_jax, name)
        returned = None if inspect.isclass(member) else inspect.signature(member).return_annotation
        if returned in (stn_jax.Transform, "Transform"):
            found[name] = member

    def place(name: str) -> tuple[bool, bool, int]:
        arguments = arguments_of(name, found[name])
        made = eval(f"stn.{name}({arguments})", {"stn": stn_jax})
        return "stn." in arguments, made.homogeneous is None, made.num_params

    return {name: found[name] for name in sorted(found, key=place)}


def arguments_of(name: str, make: Callable[..., stn_jax.Transform]) -> str:
    """The source text of the arguments for a family.

    Raises:
      ValueError: If an argument without a default has no example.
    """
    words = []
    for parameter in inspect.signature(make).parameters.values():
        if parameter.default is not parameter.empty:
            continue
        if parameter.name not in ARGUMENTS:
            raise ValueError(
                f"the gallery does not know what to pass as {parameter.name} of {name}; give it an "
                "example in ARGUMENTS of docs/gallery.py."
            )
        text = ARGUMENTS[parameter.name]
        only_by_name = parameter.kind is parameter.KEYWORD_ONLY
        words.append(f"{parameter.name}={text}" if only_by_name else text)
    return ", ".join(words)


def page() -> str:
    """The notebook in Markdown."""
    parts = [_HEAD, "## Transforms\n"]
    for name, make in families().items():
        summary = (inspect.getdoc(make) or "").splitlines()[0]
        # Single backquotes are code in Markdown.
        summary = summary.replace("``", "`")
        arguments = arguments_of(name, make)
        parts.append(_FAMILY.format(name=name, summary=summary, arguments=arguments))
    parts.append(
        "## Kernels\n\nThe weight of a pixel by its distance, and a detail enlarged eight times. "
        "{func}`stn_jax.cubic` takes another slope,\nand {class}`stn_jax.Kernel` a weight function "
        "of "
        "your own.\n"
    )
    parts.extend(_KERNEL.format(name=name, kernel=f'"{name}"') for name in KERNELS)
    parts.append(_KERNEL.format(name="cubic(a=-0.75)", kernel="stn.cubic(a=-0.75)"))
    parts.append("## Paddings\n\nThe values outside the image.\n")
    parts.extend(_PADDING.format(name=name) for name in PADDINGS)
    parts.append(_ANTIALIASING)
    return "\n".join(parts)


def write(path: Path) -> None:
    """Writes the page if its text has changed, so that Sphinx rebuilds only changed pages."""
    text = page()
    if not path.is_file() or path.read_text() != text:
        path.write_text(text)

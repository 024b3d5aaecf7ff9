"""The policy of the public names, enforced by walking over them."""

import difflib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import stn_jax
import stn_jax.nn
from docs import public_api

NAMES = [("stn_jax", name) for name in stn_jax.__all__] + [
    ("stn_jax.nn", name) for name in stn_jax.nn.__all__
]
# Static structure may be positional: the parts that a thing is made of.
POSITIONAL = {
    "shape", "ndim", "radius", "weight", "transform", "localization", "in_shape", "in_features",
    "image", "grid", "theta", "points", "pixels", "matrix", "boxes", "transforms", "values",
    "features", "make", "displacement", "output_shape", "mean", "std", "prior_mean", "prior_std",
    "model", "grads", "labels", "history", "group", "order", "state_dict", "params",
    "fixed", "moving",
}  # fmt: skip


@pytest.mark.parametrize(("module", "name"), NAMES)
def test_documented_with_an_example(module, name):
    documentation = getattr(sys.modules[module], name).__doc__
    assert documentation
    summary = documentation.splitlines()[0]
    assert summary.endswith(".") or ":" in summary
    assert "Example:" in documentation, "every public name shows how it is used"
    assert ">>>" in documentation
    if name not in ("pixels_from_normalized", "normalized_from_pixels", "SpatialTransformer"):
        assert "Reference:" in documentation or "arXiv" in documentation


def signature(module, name):
    value = getattr(sys.modules[module], name)
    if inspect.isclass(value) and issubclass(value, tuple):
        return []  # a result, whose fields are typed by their definition
    # The metaclass of Flax modules hides the constructor's parameters.
    signature = inspect.signature(value.__init__ if inspect.isclass(value) else value)
    return [p for p in signature.parameters.values() if p.name != "self"]


@pytest.mark.parametrize(("module", "name"), NAMES)
def test_options_are_keyword_only(module, name):
    for parameter in signature(module, name):
        if parameter.kind is not parameter.KEYWORD_ONLY:
            assert parameter.name in POSITIONAL, f"{name}({parameter.name}) is an option"


@pytest.mark.parametrize(("module", "name"), NAMES)
def test_signature_is_typed(module, name):
    assert not [p for p in signature(module, name) if p.annotation is p.empty]


def test_all_is_sorted_and_complete():
    for module in (stn_jax, stn_jax.nn):
        assert module.__all__ == sorted(module.__all__)
        assert all(hasattr(module, name) for name in module.__all__)


def test_every_public_name_has_an_example():
    assert len(public_api.names()) > len(NAMES)
    assert [name for name in public_api.names() if not public_api.has_example(name)] == []


def names_on_the_api_pages():
    """The names that autodoc describes; for a module, all of its names."""
    found, module = set(), None
    for page in sorted((Path(public_api.__file__).parent / "api").glob("*.md")):
        for directive, name in re.findall(r"^\.\. (\w+):: (\S+)", page.read_text(), re.MULTILINE):
            if directive == "currentmodule":
                module = name
            elif directive == "automodule":
                found |= {each for each in public_api.names() if each.rpartition(".")[0] == name}
            elif directive.startswith("auto"):
                found.add(f"{module}.{name}")
    return found


def test_every_public_name_is_on_an_api_page():
    missing = set(public_api.names()) - names_on_the_api_pages()
    assert not missing, f"add {sorted(missing)} to a page of docs/api"


def test_the_api_pages_name_nothing_else():
    assert names_on_the_api_pages() == set(public_api.names())


def test_names_and_signatures_are_those_of_the_list():
    kept, now = public_api.FILE.read_text(), public_api.listing()
    changes = difflib.unified_diff(
        kept.splitlines(), now.splitlines(), "docs/public_api.txt", "the library", lineterm="", n=0
    )
    assert kept == now, (
        "public names or signatures have changed. If that is meant, run "
        "`python -m docs.public_api`, commit the list, and say it in CHANGELOG.md:\n"
        + "\n".join(changes)
    )


def test_the_list_sees_names_signatures_and_parts(monkeypatch):
    before = public_api.listing()
    assert "stn_jax.rigid(*, ndim=2)\n" in before
    assert "stn_jax.Transform(*, name" in before
    assert "\n  .invert(theta, points)\n" in before
    monkeypatch.setattr(stn_jax, "rigid", lambda *, ndim=3: None)
    public_api.members.cache_clear()
    try:
        assert "stn_jax.rigid(*, ndim=3)\n" in public_api.listing()
    finally:
        public_api.members.cache_clear()


def run_python(code):
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_flax_is_imported_only_when_nn_is_used():
    run_python(
        "import sys, stn_jax\n"
        "heavy = {'flax', 'optax', 'matplotlib', 'scipy.stats', 'orbax'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "stn_jax.nn.SpatialTransformer\n"
        "assert 'flax' in sys.modules\n"
    )


def test_modules_are_there_when_they_are_used():
    run_python(
        "import sys, stn_jax as stn\n"
        "modules = 'augmentation conversions diagnostics estimation geometry nn visualize'\n"
        "assert not {f'stn_jax.{each}' for each in modules.split()} & set(sys.modules)\n"
        "for each in modules.split():\n"
        "    assert each in dir(stn)\n"
        "    assert getattr(stn, each).__name__ == f'stn_jax.{each}'\n"
    )


def test_unknown_name():
    with pytest.raises(AttributeError, match="no attribute 'warp_everything'"):
        stn_jax.warp_everything  # noqa: B018

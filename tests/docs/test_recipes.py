"""The recipes of ``docs/extending.md`` name existing files and names in them.

The cells of the page follow the recipes as far as they need no change of a file.
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RECIPES = re.split(r"^## … an? ", (ROOT / "docs" / "extending.md").read_text(), flags=re.M)[1:]
IDS = [recipe.partition("\n")[0] for recipe in RECIPES]


def last_lines(recipe):
    """The code in the paragraphs from "Into the library:" on."""
    assert recipe.count("*Into the ") == 1
    return re.findall(r"`([^`]+)`", recipe[recipe.index("*Into the ") :])


@pytest.mark.parametrize("recipe", RECIPES, ids=IDS)
def test_files_and_names_are_there(recipe):
    code = last_lines(recipe)
    paths = [ROOT / each for each in code if "/" in each or each.endswith((".md", ".txt"))]
    # An experiment's own files have no folder in the text, as the recipe makes it.
    paths = [path for path in paths if "NAME" not in str(path)]
    assert paths
    for path in paths:
        assert path.exists(), path
    texts = [path.read_text() for path in paths if path.is_file()]
    names = [each for each in code if re.fullmatch(r"_?[A-Z][A-Za-z0-9_]+", each)]
    for name in names:
        assert any(re.search(rf"\b{name}\b", text) for text in texts), name


def test_a_recipe_of_the_library_says_what_is_public():
    for recipe in RECIPES:
        if "*Into the library:*" in recipe:
            assert "CHANGELOG.md" in last_lines(recipe)
            assert any(each.startswith("tests/") for each in last_lines(recipe))

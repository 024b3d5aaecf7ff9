"""The README's tables and pictures match the present results and code."""

import json

import pytest

from docs import readme


def test_tables_are_current():
    text = readme.README.read_text()
    assert text == readme.written(text), "README.md is stale; run make readme-assets"


def test_pictures_are_current():
    assert readme.stale_pictures() == [], (
        "what these pictures of docs/images are drawn from has changed; run make readme-assets"
    )


def test_every_picture_is_accounted_for():
    assert {path.name for path in readme.IMAGES.glob("*.png")} == set(readme.PICTURES)
    assert set(json.loads(readme.INPUTS.read_text())) == set(readme.PICTURES)


def test_changed_input_makes_a_picture_stale(monkeypatch):
    picture = readme.PICTURES["invariance.png"]
    changed = picture._replace(inputs=(*picture.inputs, "README.md"))
    monkeypatch.setitem(readme.PICTURES, "invariance.png", changed)
    assert readme.stale_pictures() == ["invariance.png"]


def test_picture_is_drawn_from_its_results(tmp_path):
    path = tmp_path / "invariance.png"
    readme.PICTURES["invariance.png"].draw(path)
    assert path.stat().st_size > 10_000


def test_picture_of_a_training_that_was_not_run(tmp_path, monkeypatch):
    monkeypatch.setattr(readme, "ROOT", tmp_path)
    with pytest.raises(ValueError, match=r"before_after.png is drawn by a training; run make demo"):
        readme.PICTURES["before_after.png"].draw(tmp_path / "before_after.png")
    assert not list(tmp_path.iterdir())


def test_text_outside_the_markers_is_left_alone():
    text = readme.README.read_text()
    changed = text.replace("# stn_jax", "# something else", 1)
    assert readme.written(changed) == changed


def test_missing_marker_is_named():
    text = readme.README.read_text().replace("<!-- speed: end -->", "")
    with pytest.raises(ValueError, match="must hold the lines <!-- speed: begin --> and"):
        readme.written(text)


def test_powers_of_ten():
    assert readme._power(2.06e-14) == "2·10⁻¹⁴"
    assert readme._power(0.00043, 1) == "4.3·10⁻⁴"

"""`tfser heads NAME`: every setting has a default that `--set` takes, and a meaning; wrong names find the right one."""

from __future__ import annotations

from dataclasses import fields

import pytest

from tfser.heads import HEADS, head
from tfser.heads.runs.setting_list import UnknownSettingError, setting_names, settings_of, unknown_setting
from tfser.heads.runs.sweep_file import read_sweep
from tfser.manifests.errors import UsageError


@pytest.mark.few(8)
@pytest.mark.parametrize("name", sorted(HEADS))
def test_every_setting_says_what_it_means_and_its_default_is_taken(name):
    spec = head(name)
    rows = settings_of(spec)
    assert all(row["meaning"] and row["takes"] and "Literal" not in row["takes"] for row in rows)
    names = {part: {row["setting"] for row in rows if row["of"] == part} for part in ("architecture", "training")}
    assert names["architecture"] == {field.name for field in fields(spec.preset())} - {"summary"}
    if spec.recipe_settings is not None:
        assert names["training"] == spec.recipe_settings
    for part, settings in (("architecture", spec.preset()), ("training", spec.recipe())):
        same = settings.with_settings({row["setting"]: row["default"] for row in rows if row["of"] == part})
        assert same == settings
    assert names["architecture"] | names["training"] <= set(setting_names())


def test_of_another_preset_and_recipe():
    spec = head("mean_pool")
    other = next(name for name in spec.recipe_names if spec.recipe(name).epochs != spec.recipe().epochs)
    rows = {row["setting"]: row["default"] for row in settings_of(spec, recipe=other)}
    assert rows["epochs"] == str(spec.recipe(other).epochs)


def test_a_wrong_name_finds_the_setting_that_means_it():
    spec, known = head("mean_pool"), setting_names()
    assert "did you mean 'lr'? `tfser heads mean_pool` lists all" in str(unknown_setting(spec, "learning_rate", known))
    assert "did you mean 'weight_decay'?" in str(unknown_setting(spec, "weight_decy", known))
    error = unknown_setting(spec, "nonsense", known)
    assert isinstance(error, UnknownSettingError) and error.exit_code == 2
    assert str(error) == "unknown setting 'nonsense'; `tfser heads mean_pool` lists all"
    few = str(unknown_setting(head("logreg"), "learning_rate", ["C", "class_weights"]))
    assert few == "unknown setting 'learning_rate'; Known: C, class_weights; `tfser heads logreg` explains them"


def test_a_sweep_file_may_have_a_mark_and_is_utf8(tmp_path):
    text = b'corpus = "emodb"\n[[head]]\nname = "logreg"\n'
    (tmp_path / "s.toml").write_bytes(b"\xef\xbb\xbf" + text)
    assert read_sweep(tmp_path / "s.toml").corpus == "emodb"
    (tmp_path / "s.toml").write_bytes(text + b"# caf\xe9\n")
    with pytest.raises(UsageError, match=r"s\.toml: line 4 is not UTF-8 text"):
        read_sweep(tmp_path / "s.toml")

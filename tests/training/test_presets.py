"""Presets: each file is complete and its options are documented; old verbs and options still work, with a notice."""

from dataclasses import fields

import pytest

from moodreel.errors import DataInvalid
from moodreel.training.__main__ import _parser
from moodreel.training.cli.deprecated import modernize
from moodreel.training.cli.options import check_out
from moodreel.training.cli.train import build_request
from moodreel.training.experiment.architecture_table import ADAPTERS
from moodreel.training.experiment.config import TrainConfig
from moodreel.training.experiment.preset import load_preset, preset_names
from moodreel.training.experiment.recipe import STORE
from moodreel.training.recipes.task_table import RECIPES, configure

TRAINED = {"compact-emotimesh", "face-expression", "resemotenet", "vit", "moodreel-five", "text-emotion", "movements"}


@pytest.mark.parametrize("name", preset_names())
def test_each_preset_sets_options_of_its_task_only(name):
    preset = load_preset(name)
    config, options = configure(preset)
    assert set(preset.training) <= RECIPES[preset.task].uses
    assert {config.seed, *vars(options)}


def test_every_shipped_model_and_every_architecture_has_a_preset():
    presets = [load_preset(name) for name in preset_names()]
    assert {preset.name for preset in presets} >= TRAINED
    assert {preset.architecture for preset in presets if preset.task == "classification"} == set(ADAPTERS)


def test_every_option_has_a_help_text_and_belongs_to_one_dataclass():
    for recipe in RECIPES.values():
        names = [each.name for each in (*fields(TrainConfig), *fields(recipe.options))]
        assert len(names) == len(set(names))
        assert all(each.metadata["help"] for each in (*fields(TrainConfig), *fields(recipe.options)))


def test_an_unknown_preset_and_an_unknown_option_are_refused(capsys):
    with pytest.raises(DataInvalid, match="there are audio-logreg, audio-visual"):
        load_preset("nothing")
    with pytest.raises(SystemExit):
        _parser().parse_args(["train", "nothing"])
    assert "improved-cnn" in capsys.readouterr().err
    with pytest.raises(DataInvalid, match="vit has no option epochs"):
        configure(load_preset("vit"), {"epochs": 3})


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("fit vit --data images:X --rate 0.1", "train vit-classifier --data images:X --lr 0.1"),
        (
            "fit improved-cnn --held-out 0.3 --faces ferplus:X",
            "train improved-cnn --test-fraction 0.3 --faces ferplus:X",
        ),
        ("train vit --data X --muxspace-data Y", "train vit --data ferplus:X --data muxspace:Y"),
        (
            "train vit --faces 9 --held-out=0.1 --width 32",
            "train vit --batch-size 9 --val-fraction=0.1 --model-arg width=32",
        ),
        ("train vit --width=32 --mix 0.2", "train vit --model-arg=width=32 --mixup-prob 0.2"),
        ("train compact-emotimesh --mix 0.2", "train compact-emotimesh --mixup-max 0.2"),
        ("train text-emotion --data X --brief 0", "train text-emotion --data goemotions:X --bf16 0"),
        ("movements --data X", "train movements --data ferplus:X"),
        ("baseline --data ravdess-audio:X --folds 2", "train audio-logreg --data ravdess-audio:X --folds 2"),
        ("fit improved-cnn --gpu 0", "train improved-cnn --device cpu"),
    ],
)
def test_old_verbs_and_options_become_the_new_ones_with_a_notice(old, new, capsys):
    assert modernize(old.split()) == new.split()
    assert "is deprecated and will be removed; use" in capsys.readouterr().err


def test_the_present_command_line_is_left_as_it_is(capsys):
    words = ["train", "vit", "--data", "ferplus:X", "--batch-size", "9", "--out", "Y", "--model-arg", "width=32"]
    assert modernize(words) == words
    assert not capsys.readouterr().err


def test_the_command_of_a_card_repeats_the_run_without_paths():
    line = "train audio-visual --data ravdess-audio:/home/me --faces ferplus:/home/me --out /home/me/x --lr 0.01"
    args = _parser().parse_args([*line.split(), "--model-arg", "fusion=late", "--pretrained", "/home/me/y"])
    command = build_request(load_preset("audio-visual"), args).command
    assert command == (
        "python -m moodreel.training train audio-visual --data ravdess-audio:PATH --out DIR --model-arg fusion=late "
        "--lr 0.01 --pretrained PATH --faces ferplus:PATH"
    )


def test_nothing_is_written_over_unless_it_is_asked_for_and_never_a_shipped_model(tmp_path):
    check_out(tmp_path, overwrite=False)
    (tmp_path / "notes.txt").write_text("somebody's")
    with pytest.raises(DataInvalid, match="holds files already"):
        check_out(tmp_path, overwrite=False)
    check_out(tmp_path, overwrite=True)
    with pytest.raises(DataInvalid, match="store of shipped models"):
        check_out(STORE / "vit", overwrite=True)

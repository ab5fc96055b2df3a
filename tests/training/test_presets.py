"""Test presets and the command line: options, help texts, deprecated names, and the commands in the model store."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from moodreel.errors import DataInvalid
from moodreel.training.__main__ import _parser
from moodreel.training.cli.deprecated import replace_verb
from moodreel.training.cli.options import check_out
from moodreel.training.cli.train import build_request, parse_data
from moodreel.training.experiment.architecture_table import ADAPTERS
from moodreel.training.experiment.config import TrainConfig
from moodreel.training.experiment.preset import load_preset, preset_names
from moodreel.training.experiment.recipe import STORE
from moodreel.training.recipes.task_table import RECIPES, configure

TRAINED = {"compact-emotimesh", "face-expression", "resemotenet", "vit", "moodreel-five", "text-emotion", "movements"}


@pytest.mark.parametrize("name", preset_names())
def test_presets_set_only_options_of_their_task(name):
    preset = load_preset(name)
    config, options = configure(preset)
    assert set(preset.training) <= RECIPES[preset.task].uses
    assert {config.seed, *vars(options)}


def test_shipped_models_and_architectures_have_presets():
    presets = [load_preset(name) for name in preset_names()]
    assert {preset.name for preset in presets} >= TRAINED
    assert {preset.architecture for preset in presets if preset.task == "classification"} == set(ADAPTERS)


def test_options_have_help_texts_and_unique_names():
    for recipe in RECIPES.values():
        names = [each.name for each in (*fields(TrainConfig), *fields(recipe.options))]
        assert len(names) == len(set(names))
        assert all(each.metadata["help"] for each in (*fields(TrainConfig), *fields(recipe.options)))


def test_unknown_presets_and_options_are_refused(capsys):
    with pytest.raises(SystemExit):
        _parser().parse_args(["train", "nothing"])
    assert "improved-cnn" in capsys.readouterr().err
    with pytest.raises(DataInvalid, match="vit has no option epochs"):
        configure(load_preset("vit"), {"epochs": 3})


def parse(line):
    """Return what a command line sets."""
    values = vars(_parser().parse_args(replace_verb(line.split())))
    return {name: value for name, value in values.items() if name != "run"}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("fit vit --data images:X --rate 0.1", "train vit-classifier --data images:X --lr 0.1"),
        (
            "fit vit --data images:X --argument layers=2 --argument width=32",
            "train vit-classifier --data images:X --model-arg layers=2 --model-arg width=32",
        ),
        (
            "fit improved-cnn --data images:X --held-out 0.3 --faces ferplus:X",
            "train improved-cnn --data images:X --test-fraction 0.3 --faces ferplus:X",
        ),
        ("train vit --data ferplus:X --muxspace-data Y", "train vit --data ferplus:X --data muxspace:Y"),
        (
            "train vit --data ferplus:X --faces 9 --held-out=0.1 --width 32",
            "train vit --data ferplus:X --batch-size 9 --val-fraction=0.1 --model-arg width=32",
        ),
        (
            "train vit --data ferplus:X --width=32 --mix 0.2",
            "train vit --data ferplus:X --model-arg=width=32 --mixup-prob 0.2",
        ),
        (
            "train compact-emotimesh --data ferplus:X --mix 0.2",
            "train compact-emotimesh --data ferplus:X --mixup-max 0.2",
        ),
        ("train text-emotion --data goemotions:X --brief 0", "train text-emotion --data goemotions:X --bf16 0"),
        ("movements --data ferplus:X", "train movements --data ferplus:X"),
        ("baseline --data ravdess-audio:X --folds 2", "train audio-logreg --data ravdess-audio:X --folds 2"),
        ("fit improved-cnn --data images:X --gpu 0", "train improved-cnn --data images:X --device cpu"),
        (
            "compare A B --data images:X --judge-by accuracy --hold-out 0.3 --by random",
            "compare A B --data images:X --metric accuracy --test-fraction 0.3 --split-by random",
        ),
    ],
)
def test_deprecated_verbs_and_options_set_what_the_present_ones_set(old, new, capsys):
    out = "" if old.startswith("baseline") else " --out Y"
    given = parse(old + out)
    assert "is deprecated and will be removed; use" in capsys.readouterr().err
    assert given == parse(new + out)
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    ("task", "name"),
    [("multi-head", "ferplus"), ("multi-label-text", "goemotions"), ("audio-baseline", "ravdess-audio")],
)
def test_data_without_a_name_is_deprecated(task, name, capsys):
    assert parse_data(["X"], RECIPES[task].bare_data) == {name: Path("X")}
    assert f"--data PATH is deprecated and will be removed; use --data {name}:PATH." in capsys.readouterr().err


def test_help_does_not_show_deprecated_options(capsys):
    for command in (["train", "improved-cnn"], ["compare"]):
        with pytest.raises(SystemExit):
            _parser().parse_args([*command, "--help"])
        text = capsys.readouterr().out
        assert not re.search(r"--(rate|judge-by|width|gpu)\b", text)


@pytest.mark.parametrize("name", preset_names())
def test_help_states_each_default_once_and_offers_a_folder_only_where_one_is_written(name, capsys):
    with pytest.raises(SystemExit):
        _parser().parse_args(["train", name, "--help"])
    options = re.split(r"\n  (?=-)", capsys.readouterr().out)
    assert all(option.count("default:") <= 1 for option in options)
    writes_model = RECIPES[load_preset(name).task].writes_model
    assert any(option.startswith("--out ") for option in options) == writes_model


def test_command_of_a_card_contains_no_paths():
    line = "train audio-visual --data ravdess-audio:/home/me --faces ferplus:/home/me --out /home/me/x --lr 0.01"
    args = _parser().parse_args([*line.split(), "--model-arg", "fusion=late", "--pretrained", "/home/me/y"])
    command = build_request(load_preset("audio-visual"), args).command
    assert command == (
        "python -m moodreel.training train audio-visual --data ravdess-audio:PATH --out DIR --model-arg fusion=late "
        "--lr 0.01 --pretrained PATH --faces ferplus:PATH"
    )


STORED = sorted(
    {
        line
        for file in [*STORE.glob("*/model.json"), *STORE.glob("*/CARD.md")]
        for line in re.findall(r"python -m moodreel\.training ([^\"`\n]+)", file.read_text())
        if not line.startswith("evaluate NAME")  # goes on in the next line
    }
)


@pytest.mark.parametrize("line", STORED)
def test_commands_in_the_model_store_are_valid_and_not_deprecated(line, capsys):
    parse(line)
    assert not capsys.readouterr().err
    assert ":PATH" in line


def test_existing_files_are_overwritten_only_on_request(tmp_path):
    check_out(tmp_path, overwrite=False)
    (tmp_path / "train.log").write_text("of a run that failed before its first checkpoint")
    check_out(tmp_path, overwrite=False)
    (tmp_path / "notes.txt").write_text("the user's")
    with pytest.raises(DataInvalid, match="holds files already"):
        check_out(tmp_path, overwrite=False)
    check_out(tmp_path, overwrite=True)
    check_out(tmp_path, overwrite=False, resume=True)
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(DataInvalid, match="holds files already"):
        check_out(tmp_path, overwrite=False, resume=True)
    (tmp_path / "checkpoint.pt").write_text("")
    check_out(tmp_path, overwrite=False, resume=True)
    with pytest.raises(DataInvalid, match="store of shipped models"):
        check_out(STORE / "vit", overwrite=True)

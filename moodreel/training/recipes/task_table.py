"""The recipe of each task that presets name, and the configuration of a preset."""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from moodreel.errors import DataInvalid
from moodreel.training.experiment.config import TrainConfig
from moodreel.training.experiment.preset import Preset
from moodreel.training.experiment.recipe import Recipe
from moodreel.training.experiment.runner import ClassificationRecipe
from moodreel.training.recipes.audio_baseline import AudioBaselineRecipe
from moodreel.training.recipes.compact_emotimesh import CompactEmotiMeshRecipe
from moodreel.training.recipes.face_expression import MultiHeadRecipe
from moodreel.training.recipes.facial_actions import FacialActionsRecipe
from moodreel.training.recipes.moodreel_five import FramePoolingRecipe
from moodreel.training.recipes.text_emotion import TextRecipe
from moodreel.training.recipes.text_teacher import TextTeacherRecipe

RECIPES: dict[str, Recipe] = {
    "classification": ClassificationRecipe(),
    "multi-head": MultiHeadRecipe(),
    "compact-emotimesh": CompactEmotiMeshRecipe(),
    "frame-pooling": FramePoolingRecipe(),
    "multi-label-text": TextRecipe(),
    "text-teacher": TextTeacherRecipe(),
    "facial-actions": FacialActionsRecipe(),
    "audio-baseline": AudioBaselineRecipe(),
}
"""Recipes by the task that presets name."""


def configure(preset: Preset, values: Mapping[str, Any] | None = None) -> tuple[TrainConfig, Any]:
    """Return a preset's configuration and task options, with some values replaced.

    Raises:
        DataInvalid: A value is out of its range, or a name is not an option of the preset's task.
    """
    recipe, values = RECIPES[preset.task], values or {}
    task_options = {each.name for each in fields(recipe.options)}
    if unknown := sorted({*preset.training, *preset.task_options, *values} - recipe.uses - task_options):
        raise DataInvalid(f"{preset.name} has no option {', '.join(unknown)}.")
    config = TrainConfig(**preset.training)
    options = recipe.options(**preset.task_options)
    return (
        replace(config, **{name: value for name, value in values.items() if name in recipe.uses}),
        replace(options, **{name: value for name, value in values.items() if name in task_options}),
    )

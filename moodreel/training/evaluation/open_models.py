"""Models by what people call them: a name in the store, a folder, a weights file."""

from collections.abc import Sequence
from pathlib import Path

from moodreel.errors import ModelNotFound, MoodreelError
from moodreel.models.audiovisual_registry import load_audiovisual
from moodreel.models.face_registry import load_face_model
from moodreel.models.model_card import AUDIO_VISUAL, FACE, kind_of
from moodreel.models.registry import CARD
from moodreel.training.evaluation.audiovisual_model import EvaluatedAudioVisualModel
from moodreel.training.evaluation.face_model import EvaluatedFaceModel, EvaluatedModel

_LONGEST_NAME = 60


def open_models(models: Sequence[str], store: Path) -> list[EvaluatedModel]:
    """Load models, each by a name in the store, its folder or its weights file.

    Of several that have one name all but the first get a number.
    Raises MoodreelError for one that is not there, not as it should be, or reads texts.
    """
    subjects: list[EvaluatedModel] = []
    for model in models:
        path = Path(model) if Path(model).exists() else store / model
        if not model.strip() or not path.exists():
            raise ModelNotFound(
                f"There is no model {model!r}. Name one of {', '.join(_names(store)) or 'none'}; or a model's folder, "
                "or its weights file."
            )
        subjects.append(_open(path, {subject.name for subject in subjects}))
    return subjects


def _open(path: Path, taken: set[str]) -> EvaluatedModel:
    card = (path if path.is_dir() else path.parent) / CARD
    kind = kind_of(card) if card.is_file() else FACE
    if kind == FACE:
        predictor = load_face_model(path)
        return EvaluatedFaceModel(_unlike(predictor.info.name, taken), path, predictor)
    if kind == AUDIO_VISUAL:
        hears = load_audiovisual(path)
        return EvaluatedAudioVisualModel(_unlike(hears.info.name, taken), path, hears)
    raise MoodreelError(
        f"{path.name} reads {kind}s. What can be compared are models that read faces, or faces and voices; for others "
        "there is `python -m moodreel.training evaluate`."
    )


def _names(store: Path) -> list[str]:
    cards = [path for path in store.glob(f"*/{CARD}") if any(path.parent.glob("*.safetensors"))]
    return sorted(path.parent.name for path in cards if kind_of(path) in (FACE, AUDIO_VISUAL))


def _unlike(name: str, taken: set[str]) -> str:
    """Give a name that can be printed and is nobody else's."""
    plain = "".join(sign for sign in name if sign.isprintable())[:_LONGEST_NAME].strip() or "unnamed"
    unlike, number = plain, 2
    while unlike in taken:
        unlike, number = f"{plain} ({number})", number + 1
    return unlike

"""Open models to evaluate by a name in the store, a folder or a weights file."""

from collections.abc import Sequence
from pathlib import Path

from moodreel.errors import ModelNotFound, MoodreelError
from moodreel.models.audiovisual_registry import load_audiovisual_model
from moodreel.models.face_registry import load_face_model
from moodreel.models.model_card import AUDIO_VISUAL, DIARY, FACE, read_kind
from moodreel.models.registry import CARD_FILE
from moodreel.training.evaluation.audiovisual_model import EvaluatedAudioVisualModel
from moodreel.training.evaluation.face_model import EvaluatedFaceModel, EvaluatedModel

_MAX_NAME_LENGTH = 60


def open_models(models: Sequence[str], store: Path, *, device: str = "cpu", prior: str = DIARY) -> list[EvaluatedModel]:
    """Load models, each by a name in the store, its folder or its weights file.

    Of several models with the same name, all but the first get a number.

    Args:
        models: Names or paths.
        store: The folder of models.
        device: A torch device.
        prior: One of `PRIORS`, for models that read faces.

    Raises:
        ModelNotFound: There is no such model.
        MoodreelError: The model is invalid, or reads texts.
    """
    opened: list[EvaluatedModel] = []
    for model in models:
        path = Path(model) if Path(model).exists() else store / model
        if not model.strip() or not path.exists():
            raise ModelNotFound(
                f"There is no model {model!r}. Name one of {', '.join(_names(store)) or 'none'}; or a model's folder, "
                "or its weights file."
            )
        opened.append(_open(path, {each.name for each in opened}, device, prior))
    return opened


def _open(path: Path, taken: set[str], device: str, prior: str) -> EvaluatedModel:
    card = (path if path.is_dir() else path.parent) / CARD_FILE
    kind = read_kind(card) if card.is_file() else FACE
    if kind == FACE:
        face = load_face_model(path, device=device, prior=prior)
        return EvaluatedFaceModel(_unique_name(face.info.name, taken), path, face)
    if kind == AUDIO_VISUAL:
        audiovisual = load_audiovisual_model(path, device=device)
        return EvaluatedAudioVisualModel(_unique_name(audiovisual.info.name, taken), path, audiovisual)
    raise MoodreelError(
        f"{path.name} reads {kind}s. This command takes models that read faces, or faces and voices; for others "
        "use `python -m moodreel.training evaluate`."
    )


def _names(store: Path) -> list[str]:
    cards = [path for path in store.glob(f"*/{CARD_FILE}") if any(path.parent.glob("*.safetensors"))]
    return sorted(path.parent.name for path in cards if read_kind(path) in (FACE, AUDIO_VISUAL))


def _unique_name(name: str, taken: set[str]) -> str:
    """Return a printable name that no other model has."""
    plain = "".join(char for char in name if char.isprintable())[:_MAX_NAME_LENGTH].strip() or "unnamed"
    unique, number = plain, 2
    while unique in taken:
        unique, number = f"{plain} ({number})", number + 1
    return unique

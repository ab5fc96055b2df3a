"""Define the label sets, their mappings to one another, and the color of each label.

A label names the expression that a face showed, not what the person felt.
"""

from collections.abc import Mapping

FIVE = ("Anger", "Happy", "Shock", "Neutral", "Sad")
"""Labels of `/predict`, in the order of its `probabilities`."""

EMOTIMESH_TRAINED_ORDER = ("Anger", "Happy", "Neutral", "Sad", "Shock")
"""The five labels in the order in which the original EmotiMesh-Net checkpoint was trained."""

SEVEN = ("happy", "surprise", "sad", "anger", "disgust", "fear", "neutral")
"""Labels of images, in ResEmoteNet's published order."""

EKMAN = ("anger", "disgust", "fear", "joy", "neutral", "sadness", "surprise")
"""Labels of texts: Ekman's six basic emotions and neutral."""

EIGHT = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
"""Labels of clips with audio, in RAVDESS order."""

SEVEN_TO_FIVE: Mapping[str, str] = {
    "happy": "Happy",
    "surprise": "Shock",
    "sad": "Sad",
    "anger": "Anger",
    "disgust": "Anger",
    "fear": "Shock",
    "neutral": "Neutral",
}

EIGHT_TO_SEVEN: Mapping[str, str] = {
    "neutral": "neutral",
    "calm": "neutral",
    "happy": "happy",
    "sad": "sad",
    "angry": "anger",
    "fearful": "fear",
    "disgust": "disgust",
    "surprised": "surprise",
}

LABEL_SYNONYMS: Mapping[str, str] = {
    name: label
    for label, names in {
        "happy": ("happy", "happiness", "joy"),
        "surprise": ("surprise", "surprised", "shock", "shocked"),
        "sad": ("sad", "sadness"),
        "anger": ("anger", "angry"),
        "disgust": ("disgust", "disgusted"),
        "fear": ("fear", "fearful", "afraid"),
        "neutral": ("neutral", "calm"),
    }.items()
    for name in names
}
"""Label of `SEVEN` for each name that people and models use for it, in lower case."""

GOEMOTIONS_BY_EKMAN: Mapping[str, tuple[str, ...]] = {
    "anger": ("anger", "annoyance", "disapproval"),
    "disgust": ("disgust",),
    "fear": ("fear", "nervousness"),
    "joy": (
        "joy",
        "amusement",
        "approval",
        "excitement",
        "gratitude",
        "love",
        "optimism",
        "relief",
        "pride",
        "admiration",
        "desire",
        "caring",
    ),
    "neutral": ("neutral",),
    "sadness": ("sadness", "disappointment", "embarrassment", "grief", "remorse"),
    "surprise": ("surprise", "realization", "confusion", "curiosity"),
}
"""GoEmotions' 28 labels grouped by the labels of `EKMAN`, as that data set groups them (Demszky et al. 2020)."""

COLORS = {
    "anger": "#d1495b",
    "happy": "#edae49",
    "shock": "#8e6bbf",
    "surprise": "#8e6bbf",
    "neutral": "#9aa5b1",
    "sad": "#3d7ea6",
    "disgust": "#66885a",
    "fear": "#453a5e",
}
"""Color of each emotion, `#rrggbb`; they are distinguishable with the common kinds of color blindness."""
DEFAULT_COLOR = "#000000"
"""Color of a label that is not in `COLORS`, as a user's own model may have."""

_SEVEN_TO_EKMAN = {"happy": "joy", "sad": "sadness"}
_GOEMOTIONS_TO_EKMAN = {name: label for label, names in GOEMOTIONS_BY_EKMAN.items() for name in names}


def to_ekman(label: str) -> str | None:
    """Map a label of any set, including GoEmotions, in upper or lower case, to `EKMAN`; None for an unknown label."""
    name = label.strip().lower()
    seven = LABEL_SYNONYMS.get(name)
    return _SEVEN_TO_EKMAN.get(seven, seven) if seven else _GOEMOTIONS_TO_EKMAN.get(name)


def to_five(label: str) -> str | None:
    """Map a label of any set, in upper or lower case, to `FIVE`; None for an unknown label."""
    seven = LABEL_SYNONYMS.get(label.strip().lower())
    return SEVEN_TO_FIVE[seven] if seven else None


def fold_to_five(probabilities: Mapping[str, float]) -> dict[str, float]:
    """Sum the probabilities of any label set into those of `FIVE`, in its order; unknown labels are left out."""
    folded = dict.fromkeys(FIVE, 0.0)
    for label, probability in probabilities.items():
        if five := to_five(label):
            folded[five] += probability
    return folded


def color_of(label: str) -> str:
    """Return the color of a label, `#rrggbb`."""
    return COLORS.get(label.lower(), DEFAULT_COLOR)

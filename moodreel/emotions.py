"""The label sets, and how one maps to another (design: "Emotions").

A label names what a face showed. It says nothing certain of what somebody felt.
"""

from collections.abc import Mapping

FIVE = ("Anger", "Happy", "Shock", "Neutral", "Sad")
"""What `/predict` answers, in the order of its `probabilities`."""

EMOTIMESH_TRAINED_ORDER = ("Anger", "Happy", "Neutral", "Sad", "Shock")
"""The order in which the original EmotiMesh-Net checkpoint was trained."""

SEVEN = ("happy", "surprise", "sad", "anger", "disgust", "fear", "neutral")
"""What pictures get, in ResEmoteNet's published order."""

EKMAN = ("anger", "disgust", "fear", "joy", "neutral", "sadness", "surprise")
"""What texts get: Ekman's six and neutral."""

EIGHT = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
"""The audio-visual labels, in RAVDESS order."""

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
"""What people and models call the seven labels, in lower case."""


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
"""GoEmotions' 28 labels under Ekman's and neutral, as that data set itself groups them (Demszky et al. 2020)."""

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
"""One colour an emotion, told apart by people with the common kinds of colour blindness."""
DEFAULT_COLOR = "#000000"
"""Of what a model of somebody's own calls otherwise."""

_SEVEN_TO_EKMAN = {"happy": "joy", "sad": "sadness"}
_TO_EKMAN = {name: label for label, names in GOEMOTIONS_BY_EKMAN.items() for name in names}


def to_ekman(label: str) -> str | None:
    """Fold a label of any set, GoEmotions' 28 among them, in any case, into Ekman's and neutral; None for others."""
    name = label.strip().lower()
    seven = LABEL_SYNONYMS.get(name)
    return _SEVEN_TO_EKMAN.get(seven, seven) if seven else _TO_EKMAN.get(name)


def to_five(label: str) -> str | None:
    """Fold a label of any set, in any case, into the five; None for one that is in no set."""
    seven = LABEL_SYNONYMS.get(label.strip().lower())
    return SEVEN_TO_FIVE[seven] if seven else None


def fold_to_five(probabilities: Mapping[str, float]) -> dict[str, float]:
    """Add the probabilities of any label set up to those of the five, in their order; a label of no set is left out."""
    folded = dict.fromkeys(FIVE, 0.0)
    for label, probability in probabilities.items():
        if five := to_five(label):
            folded[five] += probability
    return folded


def color_of(label: str) -> str:
    """Give a label's colour, as `#rrggbb`."""
    return COLORS.get(label.lower(), DEFAULT_COLOR)

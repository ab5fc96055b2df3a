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

"""One colour an emotion, wherever one is shown."""

COLOURS = {
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
OTHER = "#000000"
"""Of what a model of somebody's own calls otherwise."""


def colour_of(label: str) -> str:
    """Give a label's colour, as `#rrggbb`."""
    return COLOURS.get(label.lower(), OTHER)

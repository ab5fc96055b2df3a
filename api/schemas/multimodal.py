"""A clip with its sound in, what face and voice showed out."""

from typing import Any

from marshmallow import EXCLUDE, Schema, fields, validate

from api.schemas.fields import LowerCase, Seconds, about
from api.schemas.videos import FORMATS, ModelSchema, VideoSchema

AUDIO_FORMATS = ("wav", "mp3", "m4a", "aac", "ogg", "flac")
MODALITIES = ("video", "audio")
MISSING = ("none", "no_face", "corrupt", "unsupported", "not_read")
PLACES = 2
"""Of a per cent."""

_LABELS = ["neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised"]
_PROBS = [6.1, 3.02, 84.27, 0.93, 1.4, 0.88, 0.52, 2.88]


class AudioVisualSchema(VideoSchema):
    """A video with or without sound, or sound alone, as base64 in JSON."""

    format = LowerCase(
        allow_none=True,
        validate=validate.OneOf((*FORMATS, *AUDIO_FORMATS, None)),
        metadata=about("A hint; what the bytes really are decides.", example="mp4"),
    )


class AudioVisualQuery(Schema):
    """Which model answers."""

    class Meta:
        unknown = EXCLUDE

    model = fields.String(
        load_default=None,
        validate=validate.Length(1, 100),
        metadata=about("Another model of the store that sees and hears than the default."),
    )


class Percentages(fields.Field[Any]):
    """Probabilities as per cent to two places that add up to 100."""

    def _serialize(self, value: Any, attr: str | None, obj: Any, **kwargs: Any) -> list[float]:
        return percentages(value)


class TopLabelSchema(Schema):
    """The likeliest label."""

    label = fields.Function(
        lambda impression: impression.labels[impression.best], metadata={"type": "string", "example": "happy"}
    )
    prob = fields.Function(
        lambda impression: percentages(impression.probabilities)[impression.best],
        metadata={"type": "number", **about("Per cent.", example=84.27)},
    )


class WindowPredictionSchema(Schema):
    """One window of the clip: three seconds, or all of a shorter one."""

    start = Seconds(metadata=about("Seconds of the clip.", example=1.0))
    end = Seconds(metadata=about("Seconds of the clip.", example=4.0))
    probs = Percentages(
        attribute="probabilities",
        metadata={
            "type": "array",
            "items": {"type": "number"},
            **about("Per cent, in the order of `labels`.", example=_PROBS),
        },
    )
    modalities = fields.List(fields.String(validate=validate.OneOf(MODALITIES)), metadata={"example": ["video"]})


class AudioVisualPredictionSchema(Schema):
    """What face and voice showed, which is not always what somebody felt."""

    labels = fields.List(fields.String(), metadata=about("Of the model.", example=_LABELS))
    probs = Percentages(
        attribute="probabilities",
        metadata={
            "type": "array",
            "items": {"type": "number"},
            **about("Per cent, in the order of `labels`, adding up to 100: the mean over `windows`.", example=_PROBS),
        },
    )
    top1 = fields.Nested(TopLabelSchema)
    modalities = fields.List(
        fields.String(validate=validate.OneOf(MODALITIES)),
        metadata=about("What the answer comes from.", example=["video", "audio"]),
    )
    missing = fields.Dict(
        fields.String(validate=validate.OneOf(MODALITIES)),
        fields.String(validate=validate.OneOf(MISSING)),
        metadata=about(
            "Why the answer comes from no more, by what is missing: `none` (the file has none, or silence), `no_face`, "
            "`corrupt`, `unsupported` (its codec), `not_read` (the model does not read it). Empty where nothing is.",
            example={"audio": "none"},
        ),
    )
    windows = fields.List(
        fields.Nested(WindowPredictionSchema),
        metadata=about("At most five, spread over the clip; those with neither a face nor sound are left out."),
    )
    duration = Seconds(attribute="seconds", metadata=about("Seconds of the clip.", example=4.0))
    frames_analysed = fields.Integer(attribute="frames", metadata={"example": 16})
    model = fields.Nested(ModelSchema)
    commercial = fields.Function(
        lambda impression: impression.model.card.commercial,
        metadata={
            "type": "boolean",
            **about(
                "False where the licence of the model's weights forbids commercial use. Not in a made-up answer.",
                example=True,
            ),
        },
    )
    licence = fields.Function(
        lambda impression: impression.model.card.licence,
        metadata={"type": "string", **about("Of the model's weights. Likewise.", example="MIT")},
    )
    mock = fields.Boolean(
        metadata=about("Only, and true, where the whole answer is made up (EMO_MOCK=1).", example=True)
    )

    def get_attribute(self, obj: Any, attr: str, default: Any) -> Any:
        # The likeliest label is the impression's own.
        return obj if attr == "top1" else super().get_attribute(obj, attr, default)


def percentages(probabilities: Any) -> list[float]:
    """Round shares of 1 to per cent that still add up to 100: what rounding down leaves goes to the largest remainders
    (Hamilton's method), so that no order changes."""
    whole = 100 * 10**PLACES
    total = sum(probabilities)
    exact = [value / total * whole for value in probabilities]
    parts = [int(value) for value in exact]
    by_remainder = sorted(range(len(exact)), key=lambda row: parts[row] - exact[row])
    for row in by_remainder[: whole - sum(parts)]:
        parts[row] += 1
    return [part / 10**PLACES for part in parts]

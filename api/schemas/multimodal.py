"""Schemas of clips with sound, and the emotion of face and voice."""

from collections.abc import Sequence

from marshmallow import fields, validate

from api.schemas.fields import AnswerSchema, FileFormat, Seconds, field_doc, model_field
from api.schemas.videos import FORMATS, ModelSchema, VideoSchema
from moodreel.models.model_card import MODALITIES
from moodreel.pipelines.clip_loader import CORRUPT, NO_FACE, NONE, NOT_REQUESTED, UNSUPPORTED

AUDIO_FORMATS = ("wav", "mp3", "m4a", "aac", "ogg", "flac")
MISSING = (NONE, NO_FACE, CORRUPT, UNSUPPORTED, NOT_REQUESTED)
PLACES = 2
"""Decimals of a percentage."""

_LABELS = ["neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised"]
_PROBS = [6.1, 3.02, 84.27, 0.93, 1.4, 0.88, 0.52, 2.88]


class AudioVisualSchema(VideoSchema):
    """A video with or without sound, or sound alone, as base64 in JSON."""

    format = FileFormat(*FORMATS, *AUDIO_FORMATS)
    model = model_field("The name of a face-and-voice model in the store.")


class Percentages(fields.Field[Sequence[float]]):
    """Probabilities as percentages with two decimals that add up to 100."""

    def _serialize(self, value: Sequence[float] | None, attr: str | None, obj: object, **kwargs: object) -> list[float]:
        return [] if value is None else percentages(value)


class TopLabelSchema(AnswerSchema):
    """The most likely label."""

    label = fields.Function(lambda result: result.labels[result.best], metadata={"type": "string", "example": "happy"})
    prob = fields.Function(
        lambda result: percentages(result.probabilities)[result.best],
        metadata={"type": "number", **field_doc("Percentage.", example=84.27)},
    )


class WindowPredictionSchema(AnswerSchema):
    """One window of the clip: three seconds, or all of a shorter clip."""

    start = Seconds(metadata=field_doc("Seconds from the start of the clip.", example=1.0))
    end = Seconds(metadata=field_doc("Seconds from the start of the clip.", example=4.0))
    probs = Percentages(
        attribute="probabilities",
        metadata={
            "type": "array",
            "items": {"type": "number"},
            **field_doc("Percentages, in the order of `labels`.", example=_PROBS),
        },
    )
    modalities = fields.List(fields.String(validate=validate.OneOf(MODALITIES)), metadata={"example": ["video"]})


class AudioVisualPredictionSchema(AnswerSchema):
    """The emotion that face and voice showed, which is not always what the person felt."""

    labels = fields.List(fields.String(), metadata=field_doc("The labels of the model.", example=_LABELS))
    probs = Percentages(
        attribute="probabilities",
        metadata={
            "type": "array",
            "items": {"type": "number"},
            **field_doc(
                "Percentages in the order of `labels`, which add up to 100: the mean over `windows`.", example=_PROBS
            ),
        },
    )
    top1 = fields.Nested(TopLabelSchema)
    modalities = fields.List(
        fields.String(validate=validate.OneOf(MODALITIES)),
        metadata=field_doc("What the prediction is based on.", example=["video", "audio"]),
    )
    missing = fields.Dict(
        fields.String(validate=validate.OneOf(MODALITIES)),
        fields.String(validate=validate.OneOf(MISSING)),
        metadata=field_doc(
            "Why a modality is missing: `none` (the file has none, or is silent), `no_face`, `corrupt`, `unsupported` "
            "(its codec), `not_read` (the model does not use it). Empty if none is missing.",
            example={"audio": "none"},
        ),
    )
    windows = fields.List(
        fields.Nested(WindowPredictionSchema),
        metadata=field_doc("At most five, spread over the clip; without those that have neither a face nor sound."),
    )
    duration = Seconds(attribute="seconds", metadata=field_doc("Seconds from the start of the clip.", example=4.0))
    frames_analysed = fields.Integer(attribute="frames", metadata={"example": 16})
    model = fields.Nested(ModelSchema)
    commercial = fields.Function(
        lambda result: result.model.card.commercial,
        metadata={
            "type": "boolean",
            **field_doc(
                "False if the licence of the weights forbids commercial use. Absent from a made-up response.",
                example=True,
                optional=True,
            ),
        },
    )
    licence = fields.Function(
        lambda result: result.model.card.licence,
        metadata={
            "type": "string",
            **field_doc("The licence of the weights. Absent from a made-up response.", example="MIT", optional=True),
        },
    )
    mock = fields.Boolean(
        metadata=field_doc(
            "Present, and true, only if the whole response is made up (EMO_MOCK=1).", example=True, optional=True
        )
    )

    def get_attribute(self, obj: object, attr: str, default: object) -> object:
        """Return the value of a field."""
        # `TopLabelSchema` reads its fields from the result itself.
        return obj if attr == "top1" else super().get_attribute(obj, attr, default)


def percentages(probabilities: Sequence[float]) -> list[float]:
    """Convert shares to percentages that still add up to 100 after rounding.

    The largest remainder method (Hamilton) distributes what rounding down leaves, so that the order does not change.
    """
    whole = 100 * 10**PLACES
    total = sum(probabilities)
    exact = [value / total * whole for value in probabilities]
    parts = [int(value) for value in exact]
    by_remainder = sorted(range(len(exact)), key=lambda row: parts[row] - exact[row])
    for row in by_remainder[: whole - sum(parts)]:
        parts[row] += 1
    return [part / 10**PLACES for part in parts]

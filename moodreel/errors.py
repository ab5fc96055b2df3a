"""Define the errors that moodreel raises on purpose.

Each message is a sentence for the person who sent the input, and says what to do next. It never contains a path, a
library's error message or anything that was sent: those stay in `__cause__`, for the server's log.
"""

from typing import ClassVar


class MoodreelError(Exception):
    """Base class of all errors that moodreel raises on purpose.

    Attributes:
        code: Name of the error for programs, None if it is not about what was sent. Clients switch on codes: they are
            added, never changed.
    """

    code: ClassVar[str | None] = None


class UnsupportedMedia(MoodreelError):
    """Report a file that is not a video, audio or an image, or has a format or codec that is not decoded here."""

    code = "unsupported_media"


class NoVideoStream(UnsupportedMedia):
    """Report a file with audio or other data, but without video."""


class VideoCorrupt(MoodreelError):
    """Report a video of a known format in which no frame can be decoded."""

    code = "video_corrupt"


class VideoTooShort(MoodreelError):
    """Report a video without a single frame."""

    code = "video_too_short"


class VideoTooLong(MoodreelError):
    """Report a video that exceeds the limit of seconds, frames or decoding time."""

    code = "video_too_long"


class VideoTooBig(MoodreelError):
    """Report a video that exceeds the limit of pixels, in one frame or in total."""

    code = "video_too_big"


class AudioCorrupt(MoodreelError):
    """Report audio of a known format of which nothing can be decoded."""

    code = "audio_corrupt"


class AudioTooLong(MoodreelError):
    """Report audio that exceeds the limit of seconds or decoding time."""

    code = "audio_too_long"


class ImageCorrupt(MoodreelError):
    """Report an image of a known format that cannot be decoded to its end."""

    code = "picture_corrupt"


class ImageTooBig(MoodreelError):
    """Report an image that exceeds the limit of bytes or pixels."""

    code = "picture_too_big"


class NoFace(MoodreelError):
    """Report that no face was detected in any analyzed frame."""

    code = "no_face"


class NoFaceNoAudio(MoodreelError):
    """Report a clip without a face and without audio."""

    code = "no_face_no_sound"


class TextEmpty(MoodreelError):
    """Report a text without any word, sign or emoji."""

    code = "text_empty"


class TextTooLong(MoodreelError):
    """Report a text that exceeds the limit of characters or tokens."""

    code = "text_too_long"


class Overloaded(MoodreelError):
    """Report that every analysis slot stayed busy for as long as a caller may wait."""

    code = "overloaded"


class ModelNotFound(MoodreelError):
    """Report that the registry has no model of that name."""


class ModelMissing(MoodreelError):
    """Report that no model is installed for the task."""

    code = "model_missing"


class NonCommercialModel(MoodreelError):
    """Report a model whose license forbids commercial use, which is not allowed on this server."""

    code = "noncommercial_model"


class ModelInvalid(MoodreelError):
    """Report a model folder or checkpoint that does not match its description."""


class DataInvalid(MoodreelError):
    """Report a data set for training or evaluation that is missing or invalid; the message may name its files."""

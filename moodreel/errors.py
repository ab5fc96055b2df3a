"""What can go wrong with somebody's clip, picture or text, by name.

Every message is a sentence for the person who sent it and says what to do next. It never holds a path, a
library's own words or anything that was sent: those stay in `__cause__`, for the server's own log.
"""


class MoodreelError(Exception):
    """Base of everything that moodreel raises on purpose."""


class UnsupportedMedia(MoodreelError):
    """The bytes are no video and no picture, or one that no decoder here reads."""


class NoVideoStream(UnsupportedMedia):
    """The file holds sound or other data, but no video."""


class VideoCorrupt(MoodreelError):
    """The bytes are a video of a known kind, but nothing in it can be decoded."""


class VideoTooShort(MoodreelError):
    """The video holds not one frame."""


class VideoTooLong(MoodreelError):
    """More seconds, frames or decoding time than the limits allow."""


class VideoTooBig(MoodreelError):
    """More pixels, in one frame or in all, than the limits allow."""


class AudioCorrupt(MoodreelError):
    """There is sound of a known kind, but none of it can be decoded."""


class AudioTooLong(MoodreelError):
    """More seconds of sound, or more time to decode it, than the limits allow."""


class ImageCorrupt(MoodreelError):
    """The bytes are a picture of a known kind, but cannot be decoded to the end."""


class ImageTooBig(MoodreelError):
    """More bytes or pixels than the limits allow."""


class NoFace(MoodreelError):
    """No face was found in any analysed frame."""


class NoFaceNoAudio(MoodreelError):
    """The clip shows no face, and there is nothing to be heard in it either."""


class TextEmpty(MoodreelError):
    """Nothing in the text can be read: no word, no sign, no emoji."""


class TextTooLong(MoodreelError):
    """More characters or word pieces than the limits allow."""


class Overloaded(MoodreelError):
    """Every analysis slot stayed busy for as long as a caller is kept waiting."""


class ModelNotFound(MoodreelError):
    """The store holds no model of that name."""


class ModelMissing(MoodreelError):
    """No model is set up for what was asked."""


class NonCommercialModel(MoodreelError):
    """The licence of the model asked for forbids commercial use, and nobody has allowed it here."""


class ModelInvalid(MoodreelError):
    """A model's folder or checkpoint is not what its description says."""


class DataInvalid(MoodreelError):
    """What a model shall be trained or measured on is not there or not as expected; no clip, so files are named."""

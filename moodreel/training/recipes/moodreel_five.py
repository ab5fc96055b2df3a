"""Make the default model from a trained frame network: five labels, pooled over the frames of a clip.

Nothing is trained. Afterwards, the command `calibrate` fits the model's priors on labeled images and clips.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from moodreel.emotions import FIVE, SEVEN
from moodreel.errors import DataInvalid
from moodreel.models.face_registry import load_face_model
from moodreel.models.model_store import model_folder
from moodreel.models.networks.efficientnet_lite import EfficientNetLiteNet
from moodreel.models.networks.frame_pooling import FramePoolingNet
from moodreel.models.predictor import FacePredictor
from moodreel.training.data.face_cache import crop_image
from moodreel.training.evaluation.calibration import fit_temperature
from moodreel.training.experiment.options import MODEL, Options, option
from moodreel.training.experiment.recipe import RunRequest
from moodreel.training.recipes.face_recipe import (
    CROP_INPUTS,
    FaceRecipe,
    TrainedModel,
    read_train_split,
)


@dataclass(frozen=True)
class FramePoolingOptions(Options):
    """Options of the frame-pooling recipe besides the shared ones."""

    frame: str = option("face-expression", "the frame network, by folder or name in the store", kind=MODEL)


class FramePoolingRecipe(FaceRecipe):
    """Makes the frame-pooling network."""

    options = FramePoolingOptions
    uses = frozenset({"seed", "val_fraction", "weights"})
    template = "moodreel_five.md.j2"

    def prepare(self, request: RunRequest[FramePoolingOptions]) -> Callable[[], str]:
        """Check the data and the options."""
        _load_frame_network(request)
        return super().prepare(request)

    def train(self, request: RunRequest[FramePoolingOptions]) -> TrainedModel:
        """Assemble the network, and fit its temperature on the images that the frame network held out."""
        frame = _load_frame_network(request)
        arguments = {key: value for key, value in frame.info.card.arguments.items() if key != "classes"}
        network = FramePoolingNet(frame=arguments).eval()
        network.frame.load_state_dict(frame.network.state_dict())
        network.to(request.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        temperature = _fit_temperature(request, network)
        fields = request.model_fields(
            FIVE,
            {"frame": arguments},
            input=f"of each frame {CROP_INPUTS[network.crop_kind]}; any number of frames from 1; the logits of a clip "
            "are the mean of the log-probabilities of the frames in which the face was found",
            normalization="that of the frame network, within it",
            temperature=temperature,
        )
        card = frame.info.card
        return TrainedModel(network, fields, {"frame": frame.info.name}, data=card.data, licence=card.licence)


def _load_frame_network(request: RunRequest[FramePoolingOptions]) -> FacePredictor:
    frame = load_face_model(model_folder(request.options.frame), fuse=False)
    if not isinstance(frame.network, EfficientNetLiteNet) or frame.info.card.labels != SEVEN:
        raise DataInvalid(f"{frame.info.name} cannot be the frame network; name an efficientnet-lite of seven labels.")
    return frame


def _fit_temperature(request: RunRequest[Any], network: FramePoolingNet) -> float:
    split = read_train_split(request)
    faces = request.context.extract_faces(split.images.images)
    rows = np.flatnonzero(split.held_out & faces.found & (split.images.truth >= 0))
    crops = [crop_image(split.images.images[row], faces.landmarks[row], network.crop_kind) for row in rows]
    images = torch.from_numpy(np.stack(crops)).to(next(network.parameters()).device)
    with torch.inference_mode():
        # Averaged with the mirror image, as for a single image in the service.
        logits = network.frame.predict_batched(images) + network.frame.predict_batched(images.flip(2))
        return fit_temperature(network.merge_logits(logits / 2).cpu(), torch.from_numpy(split.images.truth[rows]))

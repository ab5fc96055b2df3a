"""Where in a face a network looked for an answer: heat maps, to see whether it is the face that decides.

Networks of convolutions: Grad-CAM (Selvaraju et al. 2017) on their last map that still tells places apart, with the
gradient of each place by itself, not their mean (HiResCAM, Draelos & Carin 2020): the two are one where a mean and a
linear layer follow, and elsewhere the mean says what a channel is good for somewhere, not here. Hiding the hottest
fifth of 136 faces of FER+ took 0.42 from `resemotenet`'s probability; of plain Grad-CAM's, 0.08; of any fifth, 0.04.

Vision transformers: attention through all layers, each head's by what it did for the label (Chefer et al. 2021,
"Generic Attention-model Explainability"). Attention rollout (Abnar & Zuidema 2020) is the same whatever the label, so
that it cannot say why this one: it took 0.14 from `vit`'s probability, this 0.18, any fifth 0.05.

A map says which places spoke for the label in this network, not why, and not what anybody felt.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from moodreel.errors import ModelInvalid
from moodreel.media.mel_spectrogram import MEL_BANDS
from moodreel.models.huggingface.image import HuggingFaceNet
from moodreel.models.networks.audiovisual import AudioVisualBatch, AudioVisualNet
from moodreel.models.networks.improved_cnn import ImprovedCNN
from moodreel.models.networks.multi_head import MultiHeadFaceNet
from moodreel.models.networks.resemotenet import ResEmoteNet
from moodreel.models.networks.se_resnet import FaceExpressionNet
from moodreel.models.networks.temporal_vit import TemporalViTNet
from moodreel.models.networks.vit import ViTNet

PLACES = 6
"""A map with fewer a side does not tell the eyes from the mouth."""
_BATCH = 32
"""Pictures at a time: bounds the memory of activations and gradients."""
_STEPS = 16
"""Of the spectrogram of a window without sound, which nothing looks at."""


def attribute(network: nn.Module, pictures: np.ndarray, labels: Sequence[int] | np.ndarray) -> np.ndarray:
    """Say where in each picture a network found its label.

    pictures: uint8, as the network reads them: crops (N, 48, 48), or squares around faces (N, S, S, 3), red first.
    labels: of each picture, the number of the network's output to explain.
    Returns float32 (N, H, W), 0 to 1, the hottest place of each picture being 1; all 0 where nothing spoke for it.
    Raises ModelInvalid for a network that reads no single pictures, or two of them.
    """
    heat_of = _how(network)
    training = network.training
    network.eval()
    try:
        maps = []
        for start in range(0, len(pictures), _BATCH):
            part = torch.from_numpy(np.ascontiguousarray(pictures[start : start + _BATCH]))
            chosen = torch.as_tensor(np.asarray(labels[start : start + _BATCH]), dtype=torch.int64)
            device = next(network.parameters()).device
            # Gradients reach the maps even of a network whose weights are all frozen.
            shown = part.to(device).float().requires_grad_()
            with torch.enable_grad():
                heat = heat_of(shown, chosen.to(device)).detach().float()
            maps.append(_spread(heat, part.shape[1:3]).cpu().numpy())
    finally:
        network.train(training)
    return np.concatenate(maps) if maps else np.zeros((0, *pictures.shape[1:3]), np.float32)


def predict_logits(network: nn.Module, pictures: np.ndarray) -> np.ndarray:
    """What a network that `explain` takes says of pictures, in the order of its outputs: uncalibrated logits (N, C).

    Raises ModelInvalid for another.
    """
    _how(network)
    parts = [pictures[start : start + _BATCH] for start in range(0, len(pictures), _BATCH)]
    device = next(network.parameters()).device
    with torch.inference_mode():
        said = [_say(network, torch.from_numpy(np.ascontiguousarray(part)).to(device).float()) for part in parts]
    return torch.cat(said).float().cpu().numpy()


Heat = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Pictures and the number of a label for each, to (N, h, w), any h and w, the more the hotter."""


def without_audio(faces: torch.Tensor) -> AudioVisualBatch:
    """Pictures of faces (N, S, S, 3) as windows of one picture each, without sound."""
    return AudioVisualBatch(
        faces=faces[:, None],
        seen=torch.ones(len(faces), 1, dtype=torch.bool),
        mels=torch.zeros(len(faces), MEL_BANDS, _STEPS),
        heard=torch.zeros(len(faces), dtype=torch.bool),
    )


def _how(network: nn.Module) -> Heat:
    """How to explain a network, by its kind."""
    if isinstance(network, TemporalViTNet):
        return _how(network.frame)  # each face by itself, as the timeline has it
    if isinstance(network, ViTNet):
        return lambda shown, labels: _by_attention(network, network.token is not None, shown, labels)
    if isinstance(network, HuggingFaceNet) and network.kind == "vit":
        return lambda shown, labels: _by_attention(network, True, shown, labels)
    blocks = _blocks(network)
    if blocks is None:
        raise ModelInvalid(
            f"A {type(network).__name__} cannot be explained: it reads no pictures of faces, or more than that. Name a "
            "model that reads single pictures, such as face-expression."
        )
    return lambda shown, labels: _by_gradients(network, blocks, shown, labels)


def _blocks(network: nn.Module) -> Sequence[nn.Module] | None:
    """The parts of a network of convolutions that give maps, in their order."""
    if isinstance(network, ImprovedCNN):
        return list(network.layers)
    if isinstance(network, FaceExpressionNet):
        return list(network.body)
    if isinstance(network, ResEmoteNet):
        return [network.se, network.res_block1, network.res_block2, network.res_block3]
    if isinstance(network, HuggingFaceNet):
        return list(network.network.resnet.encoder.stages)
    if isinstance(network, AudioVisualNet):
        return [network.trunk.layer1, network.trunk.layer2, network.trunk.layer3, network.trunk.layer4]
    return None


def _say(network: nn.Module, shown: torch.Tensor) -> torch.Tensor:
    """What a network says of pictures (N, C)."""
    if isinstance(network, AudioVisualNet):
        return network(without_audio(shown))
    if isinstance(network, TemporalViTNet):
        return _say(network.frame, shown)
    assert isinstance(network, MultiHeadFaceNet)
    return network.mix_heads(network(shown))


def _by_gradients(
    network: nn.Module, blocks: Sequence[nn.Module], shown: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    maps: list[torch.Tensor] = []
    with ExitStack() as stack:
        for block in blocks:
            stack.callback(block.register_forward_hook(lambda module, args, output: maps.append(output)).remove)
        said = _said(_say(network, shown), labels)
    largest = max(min(one.shape[-2:]) for one in maps)
    chosen = [one for one in maps if min(one.shape[-2:]) >= min(PLACES, largest)][-1]
    [gradient] = torch.autograd.grad(said, chosen)
    return (gradient * chosen).sum(dim=1).clamp_min(0)


def _by_attention(network: nn.Module, token: bool, shown: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """token: whether the first place is a class token, which is answered from; otherwise the mean of all is."""
    with _recorded(network) as attention:
        said = _said(_say(network, shown), labels)
    gradients = torch.autograd.grad(said, attention)
    count = attention[0].shape[-1]
    relevance = torch.eye(count, device=shown.device).expand(len(shown), -1, -1)
    for weights, gradient in zip(attention, gradients, strict=True):
        relevance = relevance + (weights * gradient).clamp_min(0).mean(dim=1) @ relevance
    own = relevance[:, 0, 1:] if token else relevance.mean(dim=1)
    side = round(own.shape[1] ** 0.5)
    return own.unflatten(1, (side, side))


@contextmanager
def _recorded(network: nn.Module) -> Iterator[list[torch.Tensor]]:
    """Collect the attention (N, heads, T, T) of each layer while a network answers, such that gradients reach it."""
    attention: list[torch.Tensor] = []
    with ExitStack() as stack:
        if isinstance(network, HuggingFaceNet):
            # Only this one of transformers' ways to attend gives its weights.
            network.network.set_attn_implementation("eager")
            stack.callback(network.network.set_attn_implementation, "sdpa")
            layers = [layer.attention for layer in network.network.vit.layers]
        else:
            layers = [module for module in network.modules() if isinstance(module, nn.MultiheadAttention)]

        def keep(layer: nn.Module, arguments: tuple[torch.Tensor, ...], output: Any) -> Any:
            read, weights = _attend(layer, arguments[0]) if isinstance(layer, nn.MultiheadAttention) else output
            attention.append(weights)
            return read, weights

        for layer in layers:
            stack.callback(layer.register_forward_hook(keep).remove)
        yield attention


def _attend(layer: nn.MultiheadAttention, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Self-attention over x (N, T, width), step by step, since torch's gives no weights that gradients come back to.

    Returns what was read, and the weights.
    """
    projected = F.linear(x, layer.in_proj_weight, layer.in_proj_bias).chunk(3, dim=-1)
    query, key, value = (part.unflatten(-1, (layer.num_heads, -1)).transpose(1, 2) for part in projected)
    weights = (query @ key.transpose(-2, -1) / layer.head_dim**0.5).softmax(dim=-1)
    return layer.out_proj((weights @ value).transpose(1, 2).flatten(2)), weights


def _said(answers: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """What is said for the labels, in one number: pictures of a batch do not know of each other."""
    return answers.gather(1, labels[:, None]).sum()


def _spread(heat: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Heat of any grid over the picture (N, H, W), from 0 to 1."""
    large = F.interpolate(heat[:, None], tuple(size), mode="bilinear")[:, 0]
    large = large - large.amin(dim=(1, 2), keepdim=True)
    return large / large.amax(dim=(1, 2), keepdim=True).clamp_min(1e-12)

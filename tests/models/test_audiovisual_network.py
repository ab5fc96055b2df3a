"""The audio-visual network: its published sizes, and its predictions with any modalities."""

import copy
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import safetensors.torch
import torch
from transformers import ResNetConfig, ResNetModel

from moodreel.errors import ModelInvalid
from moodreel.models.networks.audiovisual import AudioVisualBatch, AudioVisualNet
from moodreel.models.networks.fusion import FUSIONS
from moodreel.models.networks.resnet18 import IMAGENET_MEAN, IMAGENET_STD, ResNet18, load_torchvision_weights, normalize
from moodreel.training.augmentation.modality_dropout import drop_modalities

BOTH = ("video", "audio")


def random_windows(count=3, *, frames=8, side=112, steps=188, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return AudioVisualBatch(
        faces=torch.randint(0, 256, (count, frames, side, side, 3), generator=generator, dtype=torch.uint8),
        face_mask=torch.ones(count, frames, dtype=torch.bool),
        mels=torch.randn(count, 64, steps, generator=generator) * 3 - 11,
        audio_mask=torch.ones(count, dtype=torch.bool),
    )


def small_windows(count=3, **options):
    """Make windows of two small frames and half a second, for tests in which the size does not matter."""
    return random_windows(count, frames=2, side=32, steps=32, **options)


@cache
def trunk():
    torch.manual_seed(0)
    return ResNet18().eval()


@cache
def network(fusion="xattn", **options):
    """Make a network once. All share one trunk: its weights of 45 MB follow from the seed alone."""
    torch.manual_seed(0)
    made = AudioVisualNet(fusion=fusion, **options).eval()
    made.trunk = trunk()
    return made


def predict(made, batch):
    """Return the probabilities of each window, and the modalities that they come from."""
    with torch.inference_mode():
        return list(zip(made(batch).softmax(dim=-1), batch.modalities(), strict=True))


def size(module):
    return sum(parameter.numel() for parameter in module.parameters())


# Sizes


def test_trunk_and_audio_network_have_published_parameter_counts():
    made = network()
    assert size(made.trunk) == 11_176_512
    assert size(made.trunk) == pytest.approx(11.2e6, rel=0.005)
    assert size(made.audio) == 154_720
    assert size(made.audio) == pytest.approx(154e3, rel=0.005)


@pytest.mark.parametrize(("head", "of_head"), [("concat", 67_848), ("gated", 34_057)])
def test_cross_attention_has_published_parameter_count_without_head_and_missing_tokens(head, of_head):
    fusion = network(head=head).fusion
    heads = size(fusion.head) + (size(fusion.mix) if fusion.mix else 0)
    absent = fusion.no_video.numel() + fusion.no_audio.numel()
    assert (heads, absent) == (of_head, 256)
    assert size(fusion) - heads - absent == 239_488


@pytest.mark.parametrize(("fusion", "count"), [("late", 5_136), ("concat", 298_248), ("gated", 297_993)])
def test_other_fusions_have_documented_parameter_counts(fusion, count):
    assert size(network(fusion).fusion) == count


# The trunk


def torchvision_keys():
    """List the keys of torchvision's `resnet18` as in its published files."""
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    keys = ["conv1.weight", *(f"bn1.{name}" for name in norm)]
    for layer in range(1, 5):
        for block in range(2):
            prefix = f"layer{layer}.{block}"
            for part in (1, 2):
                keys += [f"{prefix}.conv{part}.weight", *(f"{prefix}.bn{part}.{name}" for name in norm)]
            if layer > 1 and block == 0:
                keys += [f"layer{layer}.0.downsample.0.weight", *(f"layer{layer}.0.downsample.1.{n}" for n in norm)]
    return [*keys, "fc.weight", "fc.bias"]


def published(trunk):
    """Return a state dict as torchvision publishes it, of a trunk's weights."""
    return {**trunk.state_dict(), "fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}


def test_trunk_state_dict_matches_torchvision_keys_order_and_shapes():
    trunk = ResNet18()
    assert [*trunk.state_dict(), "fc.weight", "fc.bias"] == torchvision_keys()
    shapes = {key: tuple(tensor.shape) for key, tensor in trunk.state_dict().items()}
    assert shapes["conv1.weight"] == (64, 3, 7, 7)
    assert shapes["layer2.0.downsample.0.weight"] == (128, 64, 1, 1)
    assert shapes["layer4.1.conv2.weight"] == (512, 512, 3, 3)


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_torchvision_weights_load_from_path_in_old_and_new_formats(tmp_path, ending, old):
    torch.manual_seed(1)
    source, loaded = ResNet18(), ResNet18()
    weights = {key: tensor for key, tensor in published(source).items() if not (old and "num_batches" in key)}
    path = tmp_path / f"resnet18.{ending}"
    torch.save(weights, path) if ending == "pth" else safetensors.torch.save_file(weights, path)
    load_torchvision_weights(loaded, path)
    for key, tensor in source.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], tensor)


def test_weights_of_another_network_are_rejected(tmp_path):
    weights = published(ResNet18())
    del weights["layer3.1.conv1.weight"]
    torch.save(weights, tmp_path / "incomplete.pth")
    with pytest.raises(ModelInvalid, match=r"layer3\.1\.conv1\.weight"):
        load_torchvision_weights(ResNet18(), tmp_path / "incomplete.pth")


def test_trunk_output_equals_transformers_with_same_weights():
    torch.manual_seed(2)
    trunk = ResNet18().eval()
    for module in trunk.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
            torch.nn.init.normal_(module.running_mean)
    config = ResNetConfig(embedding_size=64, hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], layer_type="basic")
    reference = ResNetModel(config).eval()
    weights = trunk.state_dict()
    for key, tensor in reference.state_dict().items():
        if "num_batches" not in key:
            tensor.copy_(weights[_trunk_key(key)])
    images = normalize(torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8))
    with torch.inference_mode():
        torch.testing.assert_close(trunk(images), reference(images).pooler_output.flatten(1), atol=1e-4, rtol=1e-4)


def _trunk_key(key):
    """Return the trunk's name for a parameter of `ResNetModel`."""
    kind = key.rpartition(".")[2]
    if key.startswith("embedder"):
        return f"{'conv1' if 'convolution' in key else 'bn1'}.{kind}"
    _, _, stage, _, block, part, *rest = key.split(".")
    prefix = f"layer{int(stage) + 1}.{block}"
    convolution = "convolution" in key
    if part == "shortcut":
        return f"{prefix}.downsample.{0 if convolution else 1}.{kind}"
    return f"{prefix}.{'conv' if convolution else 'bn'}{int(rest[0]) + 1}.{kind}"


def test_images_of_any_size_are_normalized_with_imagenet_statistics():
    images = normalize(torch.full((1, 224, 224, 3), 128, dtype=torch.uint8))
    assert images.shape == (1, 3, 112, 112)
    np.testing.assert_allclose(images[0, :, 50, 50], (128 / 255 - np.array(IMAGENET_MEAN)) / IMAGENET_STD, rtol=1e-5)


# Predictions


@pytest.mark.parametrize("fusion", FUSIONS)
def test_window_gets_probabilities_and_its_modalities(fusion):
    [(probabilities, modalities)] = predict(network(fusion), random_windows(1))
    assert probabilities.shape == (8,)
    assert probabilities.sum() == pytest.approx(1, abs=1e-5)
    assert modalities == BOTH


@pytest.mark.parametrize("classes", [2, 27])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_number_of_classes_is_configurable(fusion, classes):
    assert network(fusion, classes=classes)(small_windows()).shape == (3, classes)


def windows_with_gaps():
    """Make four windows: both modalities, video only, audio only, and a face in the second frame only."""
    windows = small_windows(4)
    windows.audio_mask[1] = False
    windows.face_mask[2] = False
    windows.face_mask[3, 0] = False
    return windows


OPTIONS = [("late", {}), ("concat", {}), ("gated", {}), ("xattn", {}), ("xattn", {"head": "gated"})]


@pytest.mark.parametrize(("fusion", "options"), OPTIONS)
def test_missing_modality_is_reported_with_the_prediction(fusion, options):
    predictions = predict(network(fusion, **options), windows_with_gaps())
    assert [modalities for _, modalities in predictions] == [BOTH, ("video",), ("audio",), BOTH]
    for probabilities, _ in predictions:
        assert torch.isfinite(probabilities).all()
        assert probabilities.sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(("fusion", "options"), OPTIONS)
def test_masked_inputs_do_not_change_the_output(fusion, options):
    made, windows = network(fusion, **options), windows_with_gaps()
    before = made(windows)
    windows.mels[1] = torch.nan
    windows.faces[2] = 255
    windows.faces[3, 0] = 255
    torch.testing.assert_close(made(windows), before, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("fusion", "options"), OPTIONS)
def test_unmasked_inputs_change_the_output(fusion, options):
    made, windows = network(fusion, **options), small_windows()
    before = made(windows)
    windows.faces[0] = 255 - windows.faces[0]
    windows.mels[1] = windows.mels[1].flip(-1) + 5
    changed = (made(windows) - before).abs().amax(dim=1)
    assert (changed[:2] > 1e-4).all()
    assert changed[2] < 1e-5, "windows are independent"


@pytest.mark.parametrize(("fusion", "options"), OPTIONS)
def test_all_parameters_get_gradients_with_missing_modalities(fusion, options):
    made = copy.deepcopy(network(fusion, **options)).train()
    torch.nn.functional.cross_entropy(made(windows_with_gaps()), torch.tensor([0, 1, 2, 3])).backward()
    without_gradient = [
        name for name, parameter in made.named_parameters() if parameter.grad is None or not parameter.grad.any()
    ]
    assert not without_gradient
    assert all(torch.isfinite(parameter.grad).all() for parameter in made.parameters())


def test_late_fusion_averages_the_available_modalities():
    made, windows = network("late"), small_windows(1)
    audio_only = AudioVisualBatch(windows.faces, torch.zeros(1, 2, dtype=torch.bool), windows.mels, windows.audio_mask)
    video_only = AudioVisualBatch(windows.faces, windows.face_mask, windows.mels, torch.zeros(1, dtype=torch.bool))
    together, audio, video = (predict(made, each)[0][0] for each in (windows, audio_only, video_only))
    torch.testing.assert_close(together, (audio + video) / 2)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_only_a_levelled_network_is_invariant_to_loudness(fusion):
    softer = small_windows()
    louder = replace(softer, mels=softer.mels + 3)  # 13 dB
    for levelled in (True, False):
        made = network(fusion, levelled=levelled)
        before, after = (
            torch.stack([probabilities for probabilities, _ in predict(made, each)]) for each in (softer, louder)
        )
        assert torch.allclose(before, after, atol=1e-5) == levelled


def test_levelled_network_maps_silence_to_zero():
    quiet = AudioVisualNet(fusion="late", levelled=True).audio.standardize(torch.full((2, 64, 188), -23.03))
    assert quiet.abs().max() < 0.01


def test_window_without_any_modality_is_an_error():
    windows = small_windows()
    windows.face_mask[1], windows.audio_mask[1] = False, False
    with pytest.raises(ValueError, match="nothing to answer from"):
        network()(windows)


def test_unknown_fusion_or_head_error_lists_the_valid_ones():
    with pytest.raises(ValueError, match="late, concat, gated, xattn"):
        AudioVisualNet(fusion="early")
    with pytest.raises(ValueError, match="concat or gated"):
        AudioVisualNet(head="late")


# Modality dropout


def test_modality_dropout_follows_its_probabilities_and_never_drops_both():
    windows = random_windows(2000, frames=1, side=1, steps=1)
    windows.audio_mask[:500] = False
    dropped = drop_modalities(windows, torch.Generator().manual_seed(0), video_prob=0.3, audio_prob=0.2)
    rows = dropped.modalities()
    assert rows[:500] == [("video",)] * 500, "a single modality is never dropped"
    shares = {had: rows[500:].count(had) / 1500 for had in set(rows[500:])}
    assert shares == pytest.approx({("audio",): 0.3, ("video",): 0.2, BOTH: 0.5}, abs=0.05)
    assert windows.face_mask.all(), "the input batch is unchanged"
    again = drop_modalities(windows, torch.Generator().manual_seed(0), video_prob=0.3, audio_prob=0.2)
    assert again.modalities() == rows

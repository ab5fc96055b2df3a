"""Test the teacher of the text recipe: its network, and soft labels from the teacher to the student."""

import numpy as np
import pytest
import safetensors.torch
import torch
from transformers import MPNetConfig, MPNetModel

from moodreel.errors import DataInvalid
from moodreel.models.networks.minilm import MiniLM
from moodreel.models.quantization import PRECISIONS
from moodreel.training.__main__ import main
from moodreel.training.data.goemotions import read_texts
from moodreel.training.recipes.text_emotion import TextOptions, add_soft_labels, average_weights, read_other_weights
from moodreel.training.recipes.text_teacher import MPNetClassifier
from tests.training.test_text_training import FILLER, KEYWORDS, data, pretrained, write_tokenizer  # noqa: F401 - fixtures

PIECES = ["<s>", "<pad>", "</s>", "[UNK]", *KEYWORDS.values(), *FILLER, *"!?."]

pytestmark = pytest.mark.training


@pytest.fixture(scope="module")
def mpnet(tmp_path_factory):
    """Write a folder with the weights of a tiny MPNet."""
    folder = tmp_path_factory.mktemp("mpnet")
    write_tokenizer(folder, PIECES, first="<s>", last="</s>")
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
    config = MPNetConfig(vocab_size=len(PIECES), **sizes, max_position_embeddings=64, initializer_range=0.1)
    MPNetModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


def test_padding_changes_no_probability(mpnet):
    network = MPNetClassifier((0,) * 28, mpnet, dropout=0.1).eval()
    short = torch.tensor([[0, 5, 6, 2]])
    padded = torch.tensor([[0, 5, 6, 2, 1, 1], [0, 7, 8, 9, 10, 2]])
    with torch.inference_mode():
        assert network.probabilities(padded).shape == (2, 7)
        torch.testing.assert_close(network.probabilities(padded)[:1], network.probabilities(short))


def test_what_a_teacher_writes_is_learned_by_the_student(tmp_path, data, mpnet, pretrained, capsys):  # noqa: F811
    shared = ["--data", f"goemotions:{data}", "--bf16", "0"]
    rates = ["--lr", "0.002", "--head-lr", "0.02", "--epochs", "4", "--ema-decay", "0.9"]
    main(["train", "text-teacher", *shared, *rates, "--pretrained", str(mpnet), "--out", str(tmp_path / "teacher")])
    assert "soft_labels.npy: 420 texts" in capsys.readouterr().out
    soft, texts = np.load(tmp_path / "teacher" / "soft_labels.npy"), read_texts(data, "train")
    assert soft.shape == (420, 28 + 7)
    assert (soft[:, 28:].argmax(axis=1) == texts.classes.argmax(axis=1)).mean() > 0.9
    student = ["--pretrained", str(pretrained), "--soft-labels", str(tmp_path / "teacher" / "soft_labels.npy")]
    small = ["--model-arg", "layers=1", "--epochs", "1", "--out", str(tmp_path / "student")]
    main(["train", "text-emotion", *shared, *student, *small])
    assert '"soft_labels": "PATH"' in (tmp_path / "student" / "model.json").read_text(), "no path of this machine"
    assert "a teacher's probabilities" in (tmp_path / "student" / "CARD.md").read_text()


def test_soft_labels_are_mixed_with_the_labels(tmp_path, data):  # noqa: F811
    texts = read_texts(data, "train")
    np.save(tmp_path / "soft.npy", np.full((420, 35), 0.5, np.float32))
    mixed = add_soft_labels(TextOptions(soft_labels=tmp_path / "soft.npy", soft_label_weight=0.2), texts)
    for soft, hard in ((mixed.fine, texts.fine), (mixed.classes, texts.classes)):
        np.testing.assert_allclose(soft, 0.8 * hard + 0.1, rtol=1e-6)
    np.save(tmp_path / "soft.npy", np.zeros((9, 35)))
    with pytest.raises(DataInvalid, match=r"must hold \(420, 35\) probabilities"):
        add_soft_labels(TextOptions(soft_labels=tmp_path / "soft.npy"), texts)
    for path in (tmp_path / "nothing.npy", tmp_path / "text.npy"):
        (tmp_path / "text.npy").write_text("not an array")
        with pytest.raises(DataInvalid, match="cannot be read"):
            add_soft_labels(TextOptions(soft_labels=path), texts)


@pytest.mark.parametrize("weights", [None, {"other": torch.zeros(1)}])
def test_a_folder_without_an_mpnet_is_refused(tmp_path, data, mpnet, weights):  # noqa: F811
    arguments = ["train", "text-teacher", "--data", f"goemotions:{data}", "--out", str(tmp_path / "out")]
    if weights is not None:
        (tmp_path / "tokenizer.json").write_text((mpnet / "tokenizer.json").read_text())
        safetensors.torch.save_file(weights, tmp_path / "model.safetensors")
        arguments += ["--pretrained", str(tmp_path)]
    with pytest.raises(SystemExit, match="MPNet"):
        main(arguments)


def test_weights_are_averaged_with_those_of_another_model(tmp_path):
    def make(value):
        network = MiniLM(layers=1, vocabulary=20, width=32, heads=1, hidden=64)
        network.load_state_dict({name: torch.full_like(each, value) for name, each in network.state_dict().items()})
        return network

    network = make(1.0)
    safetensors.torch.save_file(PRECISIONS["int8"](make(3.0).state_dict()), tmp_path / "weights.safetensors")
    average_weights(network, read_other_weights(network, [tmp_path]))
    for weights in network.state_dict().values():
        torch.testing.assert_close(weights, torch.full_like(weights, 2.0), rtol=0.01, atol=0)
    with pytest.raises(DataInvalid, match="Train it with the same recipe"):
        read_other_weights(MiniLM(layers=2, vocabulary=20, width=32, heads=1, hidden=64), [tmp_path])

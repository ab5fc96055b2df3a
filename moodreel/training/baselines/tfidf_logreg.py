"""Classify emotions of texts by logistic regressions on TF-IDF: a baseline without a network."""

import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline

from moodreel.models.text_normalization import normalize_text
from moodreel.training.data.goemotions import Texts
from moodreel.training.evaluation.calibration import apply_calibration, fit_calibration, fit_thresholds
from moodreel.training.evaluation.metrics import MultilabelMetrics, compute_multilabel_metrics

INVERSE_REGULARIZATION = 3.0
"""scikit-learn's C: of 1, 3 and 10 the one with the best macro-F1 on the calibration texts of GoEmotions."""


def measure_tfidf_baseline(train: Texts, calibration: Texts, dev: Texts) -> MultilabelMetrics:
    """Evaluate a logistic regression for each label on TF-IDF of words and pairs of words.

    Args:
        train: Texts to train on.
        calibration: Texts to fit the calibration and the thresholds on.
        dev: Texts to evaluate on.
    """
    vectorizer = TfidfVectorizer(
        preprocessor=lambda text: normalize_text(text).lower(),
        token_pattern=r"\w+|[!?]",
        ngram_range=(1, 2),
        min_df=2,
        sublinear_tf=True,
    )
    regression = LogisticRegression(C=INVERSE_REGULARIZATION, solver="liblinear", random_state=0)
    model = make_pipeline(vectorizer, OneVsRestClassifier(regression)).fit(train.texts, train.classes)
    of_calibration, of_dev = (torch.from_numpy(model.predict_proba(each.texts)) for each in (calibration, dev))
    fitted = fit_calibration(of_calibration, torch.from_numpy(calibration.classes))
    thresholds = fit_thresholds(apply_calibration(of_calibration, *fitted), calibration.classes)
    return compute_multilabel_metrics(apply_calibration(of_dev, *fitted), dev.classes, thresholds)

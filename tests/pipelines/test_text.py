"""Texts: what their words show, whatever is in them and however long they are."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest

from moodreel.emotions import EKMAN
from moodreel.errors import ModelNotFound, Overloaded, TextEmpty, TextTooLong
from moodreel.models.face_registry import face_model_registry
from moodreel.models.text_registry import text_model_registry
from moodreel.models.tokenizer import OVERLAP_TOKENS, WINDOW_TOKENS, TokenWindow, normalize_text
from moodreel.pipelines.language_id import LanguageIdentifier
from moodreel.pipelines.text import TextPipeline, pool_windows

STORE = Path(__file__).parents[2] / "model_store"
SAD = "I can't stop crying, I miss her so much."
GLAD = "Thank you so much, this is wonderful!"


@pytest.fixture(scope="module")
def reader():
    return TextPipeline.load(STORE)


def read(reader, text):
    [reading] = reader.predict([text])
    return reading


def test_a_reading_says_the_likeliest_emotion_and_each_ones_probability(reader):
    reading = read(reader, SAD)
    assert (reading.label, reading.language, reading.language_supported) == ("sadness", "en", True)
    assert tuple(reading.scores) == EKMAN
    assert reading.score == max(reading.scores.values()) == reading.scores[reading.label]
    assert all(0 <= score <= 1 for score in reading.scores.values())
    assert (reading.characters, reading.windows) == (len(SAD), 1)
    assert reading.model.name == "text-emotion"
    assert set(reading.timings) == {"tokens", "language", "model"}


def test_the_labels_are_those_over_their_thresholds_and_the_likeliest(reader):
    thresholds = dict(zip(EKMAN, reader.models.get().thresholds, strict=True))
    texts = [
        SAD,
        GLAD,
        "EW that is gross and it scares me",
        "?",
        "wait, what? I love it",
        "x",
        "the meeting is at nine",
    ]
    for reading in reader.predict(texts):
        over = {label for label, score in reading.scores.items() if score >= thresholds[label]}
        assert set(reading.labels) == over | {reading.label}
        assert list(reading.labels) == sorted(reading.labels, key=reading.scores.__getitem__, reverse=True)


def test_each_text_is_answered_in_its_place_as_it_is_alone(reader):
    texts = [GLAD, SAD * 40, "ok", SAD]
    for text, reading in zip(texts, reader.predict(texts), strict=True):
        alone = read(reader, text)
        assert reading.label == alone.label
        assert list(reading.scores.values()) == pytest.approx(list(alone.scores.values()), abs=1e-4)


def test_case_and_accents_make_no_difference_to_the_emotion(reader):
    shouted, said = read(reader, SAD.upper()), read(reader, SAD)
    assert shouted.scores == pytest.approx(said.scores, abs=1e-5)


def test_no_skin_tone_makes_a_difference(reader):
    hands = reader.predict(["👍", *(f"👍{chr(tone)}" for tone in range(0x1F3FB, 0x1F400))])
    assert len({reading.label for reading in hands}) == 1
    for hand in hands:
        assert hand.scores == pytest.approx(hands[0].scores, abs=1e-5)


def test_an_emoji_is_read(reader):
    assert read(reader, "😂😂").label == "joy"
    assert read(reader, "😢😭").label == "sadness"


@pytest.mark.parametrize(
    "text",
    [
        "👩‍👩‍👧‍👦 👨🏽‍🚀 🏳️‍🌈 🇫🇷",
        "!!!???...",
        "\ud83d I am \udc00 happy",
        "a\0b\0c",
        "\u202eyppah ma I\u202c",
        "أنا حزين جدا اليوم",
        "今天很开心",
        "e\u0301" * 500,
        "Z̸̢̛͔a̶l̵g̷o̸",
        "x" * 20_000,
        "word\n" * 2000,
        "[CLS] [SEP] [PAD] [MASK] hello",
        "<script>alert(1)</script> {{ 7*7 }}",
    ],
    ids=lambda text: repr(text[:12]),
)
def test_whatever_a_text_holds_it_gets_an_answer_that_is_one(reader, text):
    reading = read(reader, text)
    assert reading.label in EKMAN
    assert all(np.isfinite(score) and 0 <= score <= 1 for score in reading.scores.values())


@pytest.mark.parametrize("text", ["", " \n\t", "\0\0", "\u200b\u200e", "\u202e", "___"])
def test_a_text_without_anything_to_read_is_refused(reader, text):
    with pytest.raises(TextEmpty):
        reader.predict([text])


def test_a_text_that_is_too_long_is_refused_and_one_just_short_enough_is_read(reader):
    strict = TextPipeline(reader.models, LanguageIdentifier(STORE / "lid.176"), max_characters=1600)
    assert read(strict, "so sad. " * 200).label == "sadness"
    with pytest.raises(TextTooLong, match="1,600 characters"):
        strict.predict(["so sad. " * 200 + "!"])
    with pytest.raises(TextTooLong, match="emoji"):
        strict.predict(["😂" * 1500])
    with pytest.raises(TextTooLong, match="20,000 characters"):
        reader.predict(["so sad. " * 2500 + "!"])


def test_what_is_wrong_with_one_text_spoils_no_other(reader):
    found = reader.predict_batch([GLAD, "", "x" * 20_001, SAD]).results
    assert [type(result).__name__ for result in found] == ["TextResult", "TextEmpty", "TextTooLong", "TextResult"]
    assert (found[0].label, found[3].label) == ("joy", "sadness")


def test_no_texts_are_no_answers(reader):
    assert reader.predict([]) == ()


def test_another_language_is_answered_and_said_to_be_no_more_than_a_guess(reader):
    reading = read(reader, "Ich bin heute so traurig, alles geht schief.")
    assert (reading.language, reading.language_supported) == ("de", False)
    assert reading.label in EKMAN


def test_the_shipped_model_fits_its_card_and_fifty_megabytes():
    store = text_model_registry(STORE)
    assert store.names() == ["text-emotion"]
    info = store.get().info
    assert info.sha256 == info.card.sha256
    assert set(info.card.thresholds) == set(EKMAN)
    assert sum(path.stat().st_size for path in (STORE / "text-emotion").iterdir()) < 50e6


# Long texts


def test_a_long_text_is_read_whole_its_end_as_well_as_its_beginning(reader):
    calm = "I went to the shop and then I cleaned the kitchen table. " * 12
    plain, at_end, at_start = reader.predict([calm, calm + SAD * 5, SAD * 5 + calm])
    assert plain.windows > 1
    for reading in (at_end, at_start):
        assert reading.scores["sadness"] > 5 * plain.scores["sadness"]


def test_windows_overlap_and_leave_nothing_out(reader):
    tokens = reader.models.get().tokenizer
    text = " ".join(f"word{number}" for number in range(400))
    windows = tokens.tokenize(text)
    own = [window.ids[1:-1] for window in windows]
    assert max(len(window.ids) for window in windows) == WINDOW_TOKENS
    joined = list(own[0])
    for part in own[1:]:
        assert tuple(joined[-OVERLAP_TOKENS:]) == part[:OVERLAP_TOKENS]
        joined += part[OVERLAP_TOKENS:]
    assert len(joined) == len(tokens._tokenizer.encode(text, add_special_tokens=False).ids) + sum(
        len(each.ids) - OVERLAP_TOKENS for each in tokens._tokenizer.encode(text, add_special_tokens=False).overflowing
    )


def test_a_short_last_window_weighs_little():
    shares = np.array([[0.9] * 7, [0.1] * 7], np.float32)
    shares[:, EKMAN.index("neutral")] = 0.3
    together = pool_windows(shares, [TokenWindow((1,) * 92, 90), TokenWindow((1,) * 12, 10)])
    assert together[EKMAN.index("joy")] == pytest.approx(0.82)


def test_calm_windows_weigh_less_than_the_one_that_shows_something_and_are_all_there_is_where_none_does():
    joy, neutral = EKMAN.index("joy"), EKMAN.index("neutral")
    calm, glad = np.zeros(7, np.float32), np.zeros(7, np.float32)
    calm[neutral], glad[joy] = 1, 1
    windows = [TokenWindow((1,) * 92, 90)] * 4
    assert pool_windows(np.stack([calm, calm, calm, glad]), windows)[joy] > 0.9
    assert pool_windows(np.stack([calm] * 4), windows)[neutral] == pytest.approx(1)


# Emoji in words


def test_emoji_become_their_names():
    assert normalize_text("so 😂").split() == ["so", "face", "with", "tears", "of", "joy"]
    assert normalize_text("👍🏿") == normalize_text("👍🏻") == normalize_text("👍")
    assert "\ud83d" not in normalize_text("\ud83d!")
    assert normalize_text("\ud83d\ude02") == normalize_text("😂"), "two halves sent apart are one emoji"


# Turns


def test_a_model_that_is_not_there_is_named_with_those_that_are(reader):
    with pytest.raises(ModelNotFound, match="'face-expression'; there are text-emotion"):
        reader.predict([SAD], model="face-expression")
    with pytest.raises(ModelNotFound, match=r"'text-emotion'; there are .*face-expression"):
        face_model_registry(STORE).get("text-emotion")


class Slow:
    """A predictor that waits before it answers."""

    def __init__(self, predictor, seconds):
        self._predictor, self.seconds = predictor, seconds

    def __getattr__(self, name):
        return getattr(self._predictor, name)

    def predict(self, windows):
        time.sleep(self.seconds)
        return np.full((len(windows), len(EKMAN)), 0.5, np.float32)


class OneModel:
    def __init__(self, predictor):
        self.predictor = predictor

    def get(self, _name=None):
        return self.predictor


def slow_reader(seconds, **limits):
    return TextPipeline(
        OneModel(Slow(text_model_registry(STORE).get(), seconds)), LanguageIdentifier(STORE / "lid.176"), **limits
    )


def test_a_text_that_finds_the_queue_busy_for_too_long_is_told_to_come_again():
    busy = slow_reader(1.0, wait_seconds=0.1)
    first = threading.Thread(target=busy.predict, args=([SAD],))
    first.start()
    time.sleep(0.3)
    with pytest.raises(Overloaded):
        busy.predict([GLAD])
    first.join()
    assert busy.predict([GLAD])


def test_texts_that_there_is_no_time_for_are_said_to_be_so_in_their_places():
    found = slow_reader(0.4, batch_seconds=0.3).predict_batch([SAD] * 40).results
    kinds = [type(result).__name__ for result in found]
    assert kinds == ["TextResult"] * 16 + ["Overloaded"] * 24


def test_one_text_is_read_to_its_end_however_long_that_takes():
    [reading] = slow_reader(0.2, batch_seconds=0.1).predict([SAD * 300])
    assert reading.windows > 32


def test_a_line_does_not_wait_for_all_of_somebody_elses_novel():
    shared = slow_reader(0.2)
    answered = []
    novel = threading.Thread(target=lambda: answered.append(("novel", shared.predict([SAD] * 100))))
    novel.start()
    time.sleep(0.1)
    answered.append(("line", shared.predict([GLAD])))
    novel.join()
    assert [name for name, _ in answered] == ["line", "novel"]

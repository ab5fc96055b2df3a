"""The text pipeline: results, odd and long texts, languages, and limits of time."""

import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from moodreel.emotions import EKMAN
from moodreel.errors import ModelNotFound, Overloaded, TextEmpty, TextTooLong
from moodreel.models.face_registry import face_model_registry
from moodreel.models.text_normalization import normalize_text, normalize_words
from moodreel.models.text_registry import text_model_registry
from moodreel.models.tokenizer import OVERLAP_TOKENS, WINDOW_TOKENS, TokenWindow
from moodreel.pipelines.language_id import LanguageIdentifier
from moodreel.pipelines.text import TextPipeline, pool_windows
from tests.support.server import STORE

SAD = "I can't stop crying, I miss her so much."
GLAD = "Thank you so much, this is wonderful!"


@pytest.fixture(scope="module")
def pipeline():
    return TextPipeline.load(STORE)


def read(pipeline, text):
    [result] = pipeline.predict([text])
    return result


def test_a_result_has_the_most_likely_emotion_and_all_probabilities(pipeline):
    result = read(pipeline, SAD)
    assert (result.label, result.language, result.language_supported) == ("sadness", "en", True)
    assert tuple(result.scores) == EKMAN
    assert result.score == max(result.scores.values()) == result.scores[result.label]
    assert all(0 <= score <= 1 for score in result.scores.values())
    assert (result.characters, result.windows) == (len(SAD), 1)
    assert result.model.name == "text-emotion"
    assert set(result.timings) == {"tokens", "language", "model"}


def test_the_labels_are_those_above_their_thresholds_and_the_most_likely(pipeline):
    thresholds = dict(zip(EKMAN, pipeline.models.get().thresholds, strict=True))
    texts = [
        SAD,
        GLAD,
        "EW that is gross and it scares me",
        "?",
        "wait, what? I love it",
        "x",
        "the meeting is at nine",
    ]
    for result in pipeline.predict(texts):
        over = {label for label, score in result.scores.items() if score >= thresholds[label]}
        assert set(result.labels) == over | {result.label}
        assert list(result.labels) == sorted(result.labels, key=result.scores.__getitem__, reverse=True)


def test_a_batch_gives_the_same_results_as_single_texts(pipeline):
    texts = [GLAD, SAD * 40, "ok", SAD]
    for text, result in zip(texts, pipeline.predict(texts), strict=True):
        alone = read(pipeline, text)
        assert result.label == alone.label
        assert list(result.scores.values()) == pytest.approx(list(alone.scores.values()), abs=1e-4)


def test_case_and_accents_do_not_change_the_emotion(pipeline):
    upper, plain = read(pipeline, SAD.upper()), read(pipeline, SAD)
    assert upper.scores == pytest.approx(plain.scores, abs=1e-5)


def test_skin_tones_do_not_change_the_result(pipeline):
    hands = pipeline.predict(["👍", *(f"👍{chr(tone)}" for tone in range(0x1F3FB, 0x1F400))])
    assert len({result.label for result in hands}) == 1
    for hand in hands:
        assert hand.scores == pytest.approx(hands[0].scores, abs=1e-5)


@pytest.mark.parametrize(
    ("label", "texts"),
    [
        ("joy", "😂😂 🥰 ❤️ ❤ 🎉🎂 👏🏽 :) <3 ^_^"),
        ("sadness", "😢😭 😭😭😭 ☹️ T_T ...😔"),
        ("anger", "🤬 😤!!!"),
        ("disgust", "🤢 🤮"),
        ("surprise", "😮 🤯"),
        ("fear", "😱"),
    ],
)
def test_emoji_without_words_are_classified_by_their_feeling(pipeline, label, texts):
    for text in texts.split():
        assert read(pipeline, text).label == label, text


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
def test_odd_texts_get_a_valid_result(pipeline, text):
    result = read(pipeline, text)
    assert result.label in EKMAN
    assert all(np.isfinite(score) and 0 <= score <= 1 for score in result.scores.values())


@pytest.mark.parametrize("text", ["", " \n\t", "\0\0", "\u200b\u200e", "\u202e", "___", "\u2800\u3164\uffa0", "\ufffc"])
def test_an_empty_text_is_refused(pipeline, text):
    with pytest.raises(TextEmpty):
        pipeline.predict([text])


def test_the_length_of_a_text_is_limited(pipeline):
    strict = TextPipeline(pipeline.models, LanguageIdentifier(STORE / "lid.176"), max_characters=1600)
    assert read(strict, "so sad. " * 200).label == "sadness"
    with pytest.raises(TextTooLong, match="1,600 characters"):
        strict.predict(["so sad. " * 200 + "!"])
    with pytest.raises(TextTooLong, match="emoji"):
        strict.predict(["😂" * 1500])
    with pytest.raises(TextTooLong, match="20,000 characters"):
        pipeline.predict(["so sad. " * 2500 + "!"])


def test_the_error_of_a_text_is_returned_at_its_index(pipeline):
    found = pipeline.predict_batch([GLAD, "", "x" * 20_001, SAD]).results
    assert [type(result).__name__ for result in found] == ["TextResult", "TextEmpty", "TextTooLong", "TextResult"]
    assert (found[0].label, found[3].label) == ("joy", "sadness")


def test_an_empty_batch_has_no_results(pipeline):
    assert pipeline.predict([]) == ()


def test_a_text_in_another_language_is_marked_unsupported(pipeline):
    result = read(pipeline, "Ich bin heute so traurig, alles geht schief.")
    assert (result.language, result.language_supported) == ("de", False)
    assert result.label in EKMAN


def test_the_shipped_model_matches_its_card_and_stays_below_fifty_megabytes():
    store = text_model_registry(STORE)
    assert store.names() == ["text-emotion"]
    info = store.get().info
    assert info.sha256 == info.card.sha256
    assert set(info.card.thresholds) == set(EKMAN)
    assert sum(path.stat().st_size for path in (STORE / "text-emotion").iterdir()) < 50e6


# Long texts


def test_a_long_text_is_read_to_its_end(pipeline):
    calm = "I went to the shop and then I cleaned the kitchen table. " * 12
    plain, at_end, at_start = pipeline.predict([calm, calm + SAD * 5, SAD * 5 + calm])
    assert plain.windows > 1
    for result in (at_end, at_start):
        assert result.scores["sadness"] > 5 * plain.scores["sadness"]


def test_windows_overlap_and_cover_the_text(pipeline):
    tokens = pipeline.models.get().tokenizer
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


def test_a_short_window_weighs_less():
    shares = np.array([[0.9] * 7, [0.1] * 7], np.float32)
    shares[:, EKMAN.index("neutral")] = 0.3
    together = pool_windows(shares, [TokenWindow((1,) * 92, 90), TokenWindow((1,) * 12, 10)])
    assert together[EKMAN.index("joy")] == pytest.approx(0.82)


def test_neutral_windows_weigh_less_but_an_all_neutral_text_has_a_result():
    joy, neutral = EKMAN.index("joy"), EKMAN.index("neutral")
    calm, glad = np.zeros(7, np.float32), np.zeros(7, np.float32)
    calm[neutral], glad[joy] = 1, 1
    windows = [TokenWindow((1,) * 92, 90)] * 4
    assert pool_windows(np.stack([calm, calm, calm, glad]), windows)[joy] > 0.9
    assert pool_windows(np.stack([calm] * 4), windows)[neutral] == pytest.approx(1)


# Emoji in words


@pytest.mark.parametrize("line_break", ["\v", "\f", "\x1c", "\x1f", "\x85", "\u2028", "\r"])
def test_every_line_break_separates_words(pipeline, line_break):
    [expected, result] = pipeline.predict(["I am so sad", line_break.join(["I", "am", "so", "sad"])])
    assert result.scores == pytest.approx(expected.scores, abs=1e-3)


def test_emoji_become_their_names():
    assert normalize_text("so 😂").split() == ["so", "face", "with", "tears", "of", "joy"]
    assert normalize_text("😂").split() == ["face", "with", "tears", "of", "joy,", "funny"]
    assert normalize_text("👍🏿") == normalize_text("👍🏻") == normalize_text("👍")
    assert "\ud83d" not in normalize_text("\ud83d!")
    assert normalize_text("\ud83d\ude02") == normalize_text("😂"), "two halves sent apart are one emoji"


# Letters and emoticons


@pytest.mark.parametrize(
    ("written", "read_as"),
    [
        ("𝓘 𝓱𝓪𝓽𝓮 𝔂𝓸𝓾", "I hate you"),  # mathematical script
        ("I h𝐚te you", "I hate you"),  # one bold letter
        ("𝕳𝖆𝖙𝖊 𝚑𝚊𝚝𝚎 ℋate", "Hate hate Hate"),
        ("ｈａｔｅ！", "hate!"),  # full-width
        ("ʜᴀᴛᴇ", "hate"),  # small capitals
        ("Ⓗⓐⓣⓔ Ⓜⓔ", "Hate Me"),  # circled
        ("🅷🅰🆃🅴 🅗🅐🅣🅔 🄷🄰🅃🄴", "HATE HATE HATE"),  # squared and circled, white on black too; 🅰 is an emoji
        ("🇭🇦🇹🇪", "HATE"),  # regional indicators, of which the middle two would be a flag
        ("🇫🇷🇩🇪", "France Germany"),
        ("h⃣a⃝t⃠e⃞", "hate"),  # enclosing marks
        ("1️⃣", "keycap 1"),
        ("h̷̢̛͔a̶t̵ȩ̸̛́", "hate"),  # stacked marks
        ("ha\u200bt\u00ade", "hate"),  # invisible characters
        ("don\u00b4t", "don't"),
        ("café Việt", "café Việt"),  # accents of languages remain
    ],
)
def test_letters_of_any_style_are_plain_letters(written, read_as):
    assert " ".join(normalize_text(written).split()) == read_as
    if not any(sign in written for sign in "🇫1"):
        assert " ".join(normalize_words(written).split()) == read_as


@pytest.mark.parametrize(
    ("emoticons", "name"),
    [
        (":) :-) =) (: :] :^)", "slightly smiling face"),
        (":D :-D =D :DD", "grinning face with big eyes"),
        (":( :-( =( ): :[ :((( :c", "disappointed face"),
        (":'( :,( :'-( ;(", "crying face"),
        ("T_T ;_; (╥_╥) (ಥ﹏ಥ) TT_TT Q_Q T-T （；＿；） T.T", "loudly crying face"),
        (">:( >:-( >:[", "angry face"),
        ("(╯°□°)╯︵┻━┻ (╯°□°)╯┻━┻", "enraged face"),
        ("XD xD xDDD :'D", "face with tears of joy"),
        (":') :,)", "smiling face with tear"),
        (";) ;-) (;", "winking face"),
        (":P :-P :p =P", "face with tongue"),
        (":O :-o :0", "face with open mouth"),
        (r":/ :-/ :\ =/", "face with diagonal mouth"),
        (":| :-|", "neutral face"),
        ("^_^ (^_^) ^^ (◕‿◕) (≧∇≦)", "smiling face with smiling eyes"),
        ("-_- -__- -.-", "expressionless face"),
        (">_< >.< (>﹏<)", "persevering face"),
        ("o_O O_O 0_0", "flushed face"),
        ("ಠ_ಠ >_> <_<", "unamused face"),
        (">:) >:D", "smiling face with horns"),
        ("<3 <333 ♡", "red heart"),
        ("</3", "broken heart"),
        (r"¯\_(ツ)_/¯", "person shrugging"),
        (r"\o/", "raising hands"),
        (":* :-*", "face blowing a kiss"),
        ("B-) 8-)", "smiling face with sunglasses"),
        (":S", "confounded face"),
        ("D:", "anguished face"),
    ],
)
def test_an_emoticon_is_read_by_the_name_of_its_emoji(emoticons, name):
    for emoticon in emoticons.split():
        assert normalize_text(emoticon).partition(",")[0].split() == name.split(), emoticon
        assert normalize_text(f"oh well {emoticon}").split() == ["oh", "well", *name.split()], emoticon
        assert normalize_words(emoticon).split() == []


@pytest.mark.parametrize(
    "text",
    [
        "https://example.org/a:b",
        "at 10:30 (or 11:00)",
        "(like this): yes",
        "as follows:(a) one",
        "x=(1)",
        "a <3.5 and b<3",
        "Vitamin D: good",
        "0.0 and 2.0",
        "^^small print",
        "J.T.T. said... well --- no",
        "&gt;) &lt;3",
    ],
)
def test_signs_that_are_no_emoticons_remain(text):
    assert normalize_text(text) == text


@pytest.mark.parametrize(
    "text", ["◕" + "‿" * 200_000, "👩\u200d" * 100_000], ids=["a smile without an end", "joined emoji"]
)
def test_no_text_takes_time_that_grows_with_the_square_of_its_length(text):
    assert normalize_text(text), "ends: with the square it would take more than the time limit of a test"


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("𝓘 𝓱𝓪𝓽𝓮 𝔂𝓸𝓾", "anger"),
        ("she h𝐚tes it, this makes me so 𝐚𝐧𝐠𝐫𝐲", "anger"),
        ("the cat is at the vet T_T", "sadness"),
        ("my dog is at the vet :(", "sadness"),
        (":'(", "sadness"),
        (">:(", "anger"),
        ("see you tomorrow :D", "joy"),
    ],
)
def test_styled_letters_and_emoticons_are_classified(pipeline, text, label):
    result = read(pipeline, text)
    assert (result.label, result.language_supported, result.characters) == (label, True, len(text))


def test_the_language_is_that_of_the_words_in_any_style(pipeline):
    assert read(pipeline, "𝕴𝖈𝖍 𝖇𝖎𝖓 𝖍𝖊𝖚𝖙𝖊 𝖘𝖔 𝖙𝖗𝖆𝖚𝖗𝖎𝖌, 𝖆𝖑𝖑𝖊𝖘 𝖌𝖊𝖍𝖙 𝖘𝖈𝖍𝖎𝖊𝖋 T_T").language == "de"
    assert read(pipeline, "(╥_╥) :'( ;_;").language is None


# Concurrency


def test_an_unknown_model_is_refused_with_the_names_there_are(pipeline):
    with pytest.raises(ModelNotFound, match="'face-expression'; there are text-emotion"):
        pipeline.predict([SAD], model="face-expression")
    with pytest.raises(ModelNotFound, match=r"'text-emotion'; there are .*face-expression"):
        face_model_registry(STORE).get("text-emotion")


class SlowPredictor:
    """Sleep before each prediction.

    Attributes:
        started: Set when the first prediction has started.
    """

    def __init__(self, predictor, seconds):
        self._predictor, self._seconds = predictor, seconds
        self.started = threading.Event()

    def __getattr__(self, name):
        return getattr(self._predictor, name)

    def predict(self, windows):
        self.started.set()
        time.sleep(self._seconds)
        return np.full((len(windows), len(EKMAN)), 0.5, np.float32)


@pytest.fixture(scope="module")
def make_slow_pipeline(pipeline):
    language = LanguageIdentifier(STORE / "lid.176")

    def make(seconds, **limits):
        predictor = SlowPredictor(pipeline.models.get(), seconds)
        models = SimpleNamespace(get=lambda _name=None: predictor)
        return TextPipeline(models, language, **limits), predictor.started

    return make


def test_a_text_that_waits_too_long_for_the_queue_is_overloaded(make_slow_pipeline):
    busy, started = make_slow_pipeline(1.0, wait_seconds=0.1)
    first = threading.Thread(target=busy.predict, args=([SAD],))
    first.start()
    assert started.wait(20)
    with pytest.raises(Overloaded):
        busy.predict([GLAD])
    first.join()
    assert busy.predict([GLAD])


def test_texts_that_a_batch_has_no_time_for_are_overloaded(make_slow_pipeline, monkeypatch):
    monkeypatch.setattr("moodreel.pipelines.text.BATCH_SECONDS", 0.3)
    slow, _ = make_slow_pipeline(0.4)
    kinds = [type(result).__name__ for result in slow.predict_batch([SAD] * 40).results]
    assert kinds == ["TextResult"] * 16 + ["Overloaded"] * 24


def refuse_after(runs, pipeline, monkeypatch):
    """Let the queue be overloaded after some batches."""
    predictor, left = pipeline.models.get(), iter(range(runs))
    predict = predictor.predict

    def predict_or_refuse(windows):
        if next(left, None) is None:
            raise Overloaded("There are too many texts.")
        return predict(windows)

    monkeypatch.setattr(predictor, "predict", predict_or_refuse)


@pytest.mark.parametrize("finished", [1, 2])
def test_texts_classified_before_the_queue_is_overloaded_are_kept(pipeline, monkeypatch, finished):
    refuse_after(finished, pipeline, monkeypatch)
    kinds = [type(result).__name__ for result in pipeline.predict_batch([SAD] * 40).results]
    assert kinds == ["TextResult"] * 16 * finished + ["Overloaded"] * (40 - 16 * finished)


@pytest.mark.parametrize(("finished", "first"), [(0, SAD), (1, SAD * 200)])
def test_an_overloaded_queue_is_an_error_if_not_one_text_was_classified(pipeline, monkeypatch, finished, first):
    refuse_after(finished, pipeline, monkeypatch)
    with pytest.raises(Overloaded):
        pipeline.predict_batch([first, SAD])


def test_the_first_text_is_always_finished(make_slow_pipeline, monkeypatch):
    monkeypatch.setattr("moodreel.pipelines.text.BATCH_SECONDS", 0.1)
    slow, _ = make_slow_pipeline(0.2)
    [result] = slow.predict([SAD * 300])
    assert result.windows > 32


def test_a_short_text_does_not_wait_for_a_long_batch(make_slow_pipeline):
    shared, started = make_slow_pipeline(0.2)
    finished = []
    batch = threading.Thread(target=lambda: finished.append(("batch", shared.predict([SAD] * 100))))
    batch.start()
    assert started.wait(20)
    finished.append(("text", shared.predict([GLAD])))
    batch.join()
    assert [name for name, _ in finished] == ["text", "batch"]

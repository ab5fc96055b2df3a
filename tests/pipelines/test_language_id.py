"""Which language a text is in: English is not called foreign, and a line of another language is."""

import json
import shutil
from pathlib import Path

import pytest

from moodreel.errors import ModelInvalid
from moodreel.pipelines.language_id import LanguageIdentifier
from tests.support.foreign_texts import DIARY

FOLDER = Path(__file__).parents[2] / "model_store" / "lid.176"
LINES = [(language, line) for language, lines in DIARY.items() for line in lines]


@pytest.fixture(scope="module")
def identifier():
    return LanguageIdentifier(FOLDER)


@pytest.mark.parametrize(
    "text",
    [
        "Today was the best day I have had in weeks, we laughed until it hurt.",
        "ugh. work again",
        "I wanna die",
        "WHY IS EVERYTHING SO LOUD",
        "wait, WHAT? no way",
        "i dont wanna talk abt it",
        "Lunch at Café Müller with José and Zoë",
        "It’s worse. I’m sorry.",
        "so tired 😴😴😴",
        "omg yesss",
        "ok",
        "2024-05-03, 18:30: dentist",
    ],
)
def test_informal_english_is_english(identifier, text):
    assert identifier.identify(text) == "en"


@pytest.mark.parametrize(
    "text", ["", "😂😂", "🇫🇷", "!!!", "12:30", "https://example.org/eine/seite", "…", "\0", "\ud83d"]
)
def test_a_text_without_words_has_no_language(identifier, text):
    assert identifier.identify(text) is None


def test_lines_in_other_languages_are_rarely_missed(identifier):
    missed = [(language, line) for language, line in LINES if identifier.identify(line) == "en"]
    assert len(missed) <= 1, missed


def test_other_languages_are_identified(identifier):
    wrong = [
        (language, identifier.identify(line), line) for language, line in LINES if identifier.identify(line) != language
    ]
    assert len(wrong) <= len(LINES) // 10, wrong


def test_the_first_page_is_enough(identifier):
    assert identifier.identify("Ich bin heute sehr müde. " * 4000) == "de"
    assert identifier.identify("word " * 20_000) == "en"


def test_lone_surrogates_and_direction_marks_are_harmless(identifier):
    assert identifier.identify("\u202eI am so happy today\u202c \ud800 \x00 and you are too") == "en"


def test_a_file_with_another_checksum_is_refused(tmp_path):
    folder = shutil.copytree(FOLDER, tmp_path / "lid")
    stated = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(stated | {"sha256": "0" * 64}))
    with pytest.raises(ModelInvalid, match="SHA-256"):
        LanguageIdentifier(folder)
    (folder / "lid.176.ftz").unlink()
    with pytest.raises(ModelInvalid, match=r"lid\.176\.ftz"):
        LanguageIdentifier(folder)

"""Tests of the report: the same numbers in all formats, leaks marked everywhere, and names escaped."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from moodreel.training.comparison.report import NUMBERS, PAGE, TEXT, escape_markdown, write_report
from moodreel.training.data.splits import Split
from tests.support.tabular_models import LABELS, TabularModel, make_dataset, run_comparison
from tests.training.test_comparison import dataset_with_split

COMMAND = "python -m moodreel.training compare one other --data made:HERE"
HOSTILE = ("<script>alert(1)</script>", "a|b `c` [d](javascript:e)", "$\\frac{1}")


class Page(HTMLParser):
    """Parse the texts, tags, sources and table cells of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words, self.sources, self.captions, self.cells = set(), [], [], [], []
        self._in = []
        self.feed(text)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        assert not any(name.startswith("on") for name, _ in attrs)
        self.sources += [value for name, value in attrs if name in ("src", "href")]
        self._in.append(tag)
        if tag == "caption":
            self.captions.append("")

    def handle_endtag(self, tag):
        while self._in and self._in.pop() != tag:
            pass

    def handle_data(self, data):
        if "style" in self._in:
            return
        self.words.append(data)
        if "caption" in self._in:
            self.captions[-1] += data
        if self._in and self._in[-1] in ("td", "th"):
            self.cells.append(data)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Write a report on two different models trained on the data, with groups; return its folder and its numbers."""
    folder = tmp_path_factory.mktemp("report")
    models = [TabularModel(folder, "one", data="made", lost=0.05), TabularModel(folder, "other", share=0.4, seed=1)]
    data = make_dataset(240, people=24, groups=("young", "old"))
    early = np.array([int(example.person.split()[1]) < 12 for example in data.examples])
    own = Split(np.flatnonzero(early), np.flatnonzero(~early), leaks=False, reason="Half of the people.")
    comparison = run_comparison(models, replace(data, published_split=own))
    write_report(folder / "out", comparison, COMMAND)
    return folder / "out", json.loads((folder / "out" / NUMBERS).read_text())


def tables(markdown):
    """Return the cells of all tables of a Markdown text, row by row."""
    rows = [line for line in markdown.splitlines() if line.startswith("| ") and "---" not in line]
    return [cell.strip() for line in rows for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_the_page_and_the_text_hold_the_same_tables(written):
    folder, _ = written
    page, text = Page((folder / PAGE).read_text()), (folder / TEXT).read_text()
    unescaped = [re.sub(r"\\(.)", r"\1", cell) for cell in tables(text)]
    assert page.cells == unescaped
    assert len(unescaped) > 80


def test_the_numbers_are_those_of_the_json(written):
    folder, numbers = written
    texts = [Page((folder / PAGE).read_text()).text, " ".join((folder / TEXT).read_text().replace("\\", "").split())]
    wanted = [
        numbers["split_description"],
        numbers["command"],
        *numbers["verdict"],
        f"{numbers['examples']} examples held out",
    ]
    for result in numbers["results"]:
        for name, within in result["intervals"].items():
            shares = (result["metrics"][name], within["low"], within["high"])
            wanted.append("{:.1f} ({:.1f} to {:.1f})".format(*(100 * share for share in shares)))
        wanted += [f"{result['metrics'][name]:.3f}" for name in ("roc_auc", "ece")]
        wanted += [f"{100 * share:.1f}" for share in result["metrics"]["recall"].values()]
        wanted += [f"{result['cost']['parameters']:,}", f"{result['cost']['p95']:.1f}", result["cost"]["processor"]]
        for group in result["groups"]:
            wanted.append(f"{group['name']}")
            wanted.append(f"{100 * group['accuracy']:.1f} ({100 * group['interval']['low']:.1f} to")
    assert numbers["results"][0]["gap"]["examples"] == 40
    wanted.append(f"{100 * numbers['results'][0]['gap']['value']:+.1f}")
    [pair] = numbers["pairs"]
    for difference in pair["differences"].values():
        wanted.append(f"{100 * difference['value']:+.1f}")
        wanted.append(f"{100 * difference['interval']['low']:+.1f} to {100 * difference['interval']['high']:+.1f}")
    wanted += [f"{pair['mcnemar']['cohens_g']:+.3f}", f"{pair['mcnemar']['odds_ratio']:.2f}"]
    for text in texts:
        assert [number for number in wanted if number not in text] == []


def test_the_verdict_comes_first_and_the_command_last(written):
    folder, numbers = written
    text = Page((folder / PAGE).read_text()).text
    first, last = text.index(numbers["verdict"][0]), text.rindex(COMMAND)
    assert first < text.index("Held out:") < text.index("ROC-AUC") < last
    assert numbers["winner"] == "one"


def test_the_page_loads_nothing_from_outside(written):
    folder, _ = written
    page = Page((folder / PAGE).read_text())
    assert not page.tags & {"script", "link", "iframe", "object", "embed"}
    assert len(page.sources) >= 10
    assert all(source.startswith("data:image/svg+xml;base64,") for source in page.sources)


def test_every_plot_of_the_markdown_is_a_file_beside_it(written):
    folder, _ = written
    named = re.findall(r"\]\(([^)]+)\)", (folder / TEXT).read_text())
    assert len(named) >= 10
    for name in named:
        with Image.open(folder / name) as image:
            assert min(image.size) > 100


def test_a_leak_is_marked_in_the_title_and_in_every_table(written, tmp_path):
    out, _ = written
    sound = Page((out / PAGE).read_text())
    assert "LEAKS" not in sound.text
    data = dataset_with_split(people=7)
    write_report(
        tmp_path / "out",
        run_comparison([TabularModel(tmp_path, data="made"), TabularModel(tmp_path, "b")], data),
        COMMAND,
    )
    page, text = Page((tmp_path / "out" / PAGE).read_text()), (tmp_path / "out" / TEXT).read_text()
    assert page.text.startswith("LEAKS: ")
    assert len(page.captions) >= 7
    assert all(caption.startswith("LEAKS: ") for caption in page.captions)
    assert text.startswith("# LEAKS: ")
    assert text.count("\nLEAKS: ") == len(page.captions)
    assert "7 persons, clips or copies of one file are on both sides" in page.text
    assert json.loads((tmp_path / "out" / NUMBERS).read_text())["leaks"] is True


def test_names_that_look_like_markup_are_escaped(tmp_path):
    data = make_dataset(labels=HOSTILE, name="<img src=x onerror=alert(1)>", people=12, groups=("<b>old</b>",))
    models = [TabularModel(tmp_path, name, labels=HOSTILE, seed=seed) for seed, name in enumerate(HOSTILE)]
    write_report(tmp_path / "out", run_comparison(models, data), "compare '<script>'\n# not a heading")
    page, text = Page((tmp_path / "out" / PAGE).read_text()), (tmp_path / "out" / TEXT).read_text()
    assert not page.tags & {"script", "b"}
    assert all(source.startswith("data:") for source in page.sources)
    for name in (*HOSTILE, "<img src=x onerror=alert(1)>", "<b>old</b>"):
        assert name in page.text
    assert "\n# not" not in text
    for bare in ("<script>", "[d](javascript", "<img", "<b>"):
        assert re.search(r"(?<!\\)" + re.escape(bare), text.replace("    compare '<script>'", "")) is None
    lines = [line for line in text.splitlines() if line.startswith("| ") and "model" in line]
    assert lines


def test_markdown_special_characters_are_escaped():
    assert escape_markdown("a|b\n# c *d* <e> `f`") == r"a\|b \# c \*d\* \<e\> \`f\`"


def test_a_report_replaces_an_older_one(tmp_path):
    comparison = run_comparison([TabularModel(tmp_path)], make_dataset(60))
    for _ in range(2):
        write_report(tmp_path / "out", comparison, COMMAND)
    assert LABELS[0] in (tmp_path / "out" / TEXT).read_text()

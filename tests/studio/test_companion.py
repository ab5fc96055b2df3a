"""The companion with a real language model server (`transformers serve`, a tiny model), over HTTP and in the studio."""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from tests.studio.accessibility import assert_accessible
from tests.support.browser import SMILE, needs_chromium
from tests.support.chat_server import QUESTION, chat_server
from tests.support.server import KEY, REAL_APP, Server

pytestmark = [pytest.mark.server]

COUNT_CHANGES = """() => {
  window.shown = new Set();
  const look = () => window.shown.add(document.querySelector(".question")?.textContent.trim());
  new MutationObserver(look).observe(document.querySelector(".companion"), {
    subtree: true, childList: true, characterData: true,
  });
}"""


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("companion")
    with (
        chat_server(folder) as settings,
        Server(folder, REAL_APP, forked=True, WEB_CONCURRENCY=1, **settings) as server,
    ):
        yield server


@pytest.fixture(scope="module")
def result(server, browser) -> Iterator[Page]:
    """The result of the example clip."""
    with browser.new_context(base_url=server.url, viewport={"width": 390, "height": 844}) as context:
        page = context.new_page()
        page.add_init_script(f"sessionStorage.setItem('moodreel.credential', '{KEY}')")
        page.goto("/")
        page.locator("input[type=file]").set_input_files(SMILE)
        page.get_by_label("About this moment").wait_for(timeout=60_000)
        yield page


def test_a_real_model_asks_its_question(server):
    entry = {"emotion": "Happy", "confidence": 0.8, "text": "Ein schöner Tag 🎉"}
    response = server.call("POST", "/api/companion", json=entry)
    pieces = re.findall(r'event: question\ndata: {"text": "(.*)"}', response.text)
    assert "".join(pieces) == QUESTION
    assert len(pieces) > 3
    assert response.text.endswith("event: done\ndata: {}\n\n")


@needs_chromium
@pytest.mark.browser
def test_who_writes_about_a_moment_gets_a_question(result: Page):
    result.evaluate(COUNT_CHANGES)
    result.get_by_label("About this moment").fill("I got the job.")
    result.get_by_role("button", name="Ask me a question").click()
    expect(result.locator(".question")).to_have_text(QUESTION)
    assert result.evaluate("window.shown.size") > 2, "it is shown while it comes"
    expect(result.get_by_role("button", name="Ask me a question")).to_be_enabled()
    expect(result.get_by_role("status")).to_have_text(QUESTION)
    assert_accessible(result)
    assert result.evaluate("document.documentElement.scrollWidth <= innerWidth")


@needs_chromium
@pytest.mark.browser
def test_words_of_crisis_show_where_to_find_help(result: Page):
    result.get_by_label("About this moment").fill("I want to die.")
    result.get_by_role("button", name="Ask me a question").click()
    help_text = result.get_by_role("alert")
    expect(help_text).to_contain_text("you do not have to carry it alone")
    expect(help_text.get_by_role("link", name="findahelpline.com")).to_be_visible()
    expect(result.locator(".question")).to_have_count(0)
    assert_accessible(result)


@needs_chromium
@pytest.mark.browser
def test_the_words_about_a_moment_stay_while_another_screen_is_open(result: Page):
    result.get_by_label("About this moment").fill("I said yes.")
    result.get_by_role("link", name="Live").click()
    result.get_by_role("button", name="Start").wait_for()
    result.go_back()
    expect(result.get_by_label("About this moment")).to_have_value("I said yes.")


@needs_chromium
@pytest.mark.browser
def test_a_question_can_be_stopped_and_a_failure_is_told(result: Page):
    result.route("**/api/companion", lambda route: None)  # never answered
    result.get_by_label("About this moment").fill("I got the job.")
    result.get_by_role("button", name="Ask me a question").click()
    expect(result.get_by_text("Reading what you wrote…")).to_be_visible()
    result.get_by_role("button", name="Stop").click()
    expect(result.get_by_role("button", name="Ask me a question")).to_be_visible()
    expect(result.locator(".question, .note")).to_have_count(0)
    result.unroute("**/api/companion")
    problem = {"code": "companion_timeout", "detail": "…", "request_id": "42"}
    result.route("**/api/companion", lambda route: route.fulfill(status=504, json=problem))
    result.get_by_role("button", name="Ask me a question").click()
    expect(result.get_by_role("alert")).to_contain_text("The companion took too long.")
    result.unroute("**/api/companion")
    begun = 'event: question\ndata: {"text": "What"}\n\n'
    result.route("**/api/companion", lambda route: route.fulfill(content_type="text/event-stream", body=begun))
    result.get_by_role("button", name="Ask me a question").click()
    expect(result.get_by_role("alert")).to_contain_text("The service cannot be reached.")
    result.unroute("**/api/companion")

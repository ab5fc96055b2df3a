"""The documentation pages in a real browser."""

import pytest

from tests.support import accounts
from tests.support.browser import chromium, needs_chromium
from tests.support.server import FAKE_APP, Server

pytestmark = [pytest.mark.browser, needs_chromium]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    with Server(folder, FAKE_APP, **accounts.environment(folder)) as server:
        yield server


def _is_error(message) -> bool:
    # ReDoc's logo is on another server; our content security policy blocks it, which the browser reports.
    return message.type == "error" and "Content Security Policy" not in message.text


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(browser, server):
    with browser.new_page(base_url=server.url) as page:
        page.errors = []
        page.on("console", lambda message: _is_error(message) and page.errors.append(message.text))
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.on(
            "response",
            lambda response: (
                response.url.startswith((server.url, "blob:", "data:")) or page.errors.append(response.url)
            ),
        )
        yield page


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_the_documentation_shows_every_operation_and_loads_nothing_external(page, path):
    page.goto(path)
    for call in ("/predict", "/thumbnail", "/logs"):
        page.get_by_text(call, exact=True).first.wait_for(timeout=20_000)
    assert page.errors == []


def test_a_call_can_be_tried_out_from_the_documentation(page):
    page.goto("/docs")
    page.get_by_text("/health", exact=True).first.click()
    page.get_by_role("button", name="Try it out").first.click()
    page.get_by_role("button", name="Execute").first.click()
    page.locator(".live-responses-table .response-col_status").first.wait_for(timeout=20_000)
    assert "200" in page.locator(".live-responses-table .response-col_status").last.inner_text()


def test_an_authorized_token_is_sent_with_calls(page):
    page.goto("/docs")
    page.get_by_role("button", name="Authorize").first.click(timeout=20_000)
    page.locator(".auth-container", has_text="bearer").get_by_role("textbox").fill(
        accounts.own_token(userId="ada-in-docs")
    )
    page.locator(".auth-container", has_text="bearer").get_by_role("button", name="Apply").click()
    page.locator(".modal-ux").get_by_role("button", name="Close").last.click()
    page.get_by_text("/auth/profile", exact=True).first.click()
    page.get_by_role("button", name="Try it out").first.click()
    page.get_by_role("button", name="Execute").first.click()
    page.get_by_text("ada-in-docs").first.wait_for(timeout=20_000)

"""One service and one browser for the tests of the studio."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page

from tests.support import accounts
from tests.support.browser import camera_arguments, chromium, write_camera_video
from tests.support.server import KEY, REAL_APP, STORE, Server

CREDENTIAL = "sessionStorage.setItem('moodreel.credential', '{}')"


@pytest.fixture(scope="package")
def server(tmp_path_factory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("studio")
    settings = {"WEB_CONCURRENCY": 1, "HISTORY": "on", "MEDIA_STORAGE": f"file://{folder}/media"}
    settings["CHECKPOINT_PATH"] = STORE / "audio-visual"  # it hears; the default model of face and voice does not
    with Server(folder, REAL_APP, forked=True, **settings, **accounts.environment(folder)) as server:
        yield server


@pytest.fixture(scope="package")
def browser(tmp_path_factory) -> Iterator[Browser]:
    video = write_camera_video(tmp_path_factory.mktemp("camera") / "smile.mjpeg")
    with chromium(*camera_arguments(video)) as browser:
        yield browser


@pytest.fixture
def new_page(browser, server):
    """Return a function that opens a page which fails the test on any error in JavaScript or content from elsewhere."""
    contexts, errors = [], []

    def new_page(*, key: str | None = KEY, camera: bool = True, **options) -> Page:
        permissions = ["camera", "microphone"] if camera else []
        contexts.append(browser.new_context(base_url=server.url, permissions=permissions, **options))
        page = contexts[-1].new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: message.type == "error" and errors.append(message.text))
        page.on(
            "request",
            lambda request: request.url.startswith((server.url, "blob:", "data:")) or errors.append(request.url),
        )
        if key:
            page.add_init_script(CREDENTIAL.format(key))
        page.set_default_timeout(30_000)
        page.errors = errors
        return page

    yield new_page
    for context in contexts:
        context.close()
    assert errors == []

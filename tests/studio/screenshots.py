"""Take the pictures of the studio in docs/studio.

    .venv/bin/python -m tests.studio.screenshots docs/studio

The face is NASA's public-domain portrait of Eileen Collins, as in the example clip (bench/smile.py). The companion's
question is that of the tests' tiny model.
"""

import argparse
import base64
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page

from tests.studio.month import settings, write_month
from tests.support import accounts
from tests.support.browser import SMILE, camera_arguments, chromium, write_camera_video
from tests.support.chat_server import QUESTION, chat_server
from tests.support.server import KEY, REAL_APP, Server

USER = "studio"
SIZES = {390: 844, 1440: 900}
SCALES = {390: 1.5, 1440: 1}
QUALITY = 82
HELD_FRAMES = 300
"""How often the camera repeats the smile at the end: live answers come one or two seconds after an expression."""
SHOW_TURN = """() => {
  for (const loop of document.querySelectorAll("video[loop]")) {
    loop.playbackRate = 0;
    loop.currentTime = loop.duration / 2;
  }
}"""
"""Hold each loop where it turns: at the moment that showed the emotion best."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scheme", choices=("light", "dark"), default="light")
    parser.add_argument("--width", type=int, choices=SIZES, action="append")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        camera = write_camera_video(folder / "camera.mjpeg", 1280, 720, hold=HELD_FRAMES)
        with (
            chat_server(folder) as llm,
            Server(folder, REAL_APP, forked=True, WEB_CONCURRENCY=1, **settings(folder), **llm) as server,
            chromium(*camera_arguments(camera)) as browser,
        ):
            thumbnail = server.post("/thumbnail", SMILE.read_bytes(), size=240).json()["thumbnail"]
            write_month(server, USER, base64.b64decode(thumbnail))
            for width in arguments.width or SIZES:
                take(browser, server, width, arguments.scheme, arguments.folder)


def take(browser: Browser, server: Server, width: int, scheme: str, folder: Path) -> None:
    """Take a picture of each screen."""
    size = {"width": width, "height": SIZES[width]}
    options = {
        "viewport": size,
        "color_scheme": scheme,
        "permissions": ["camera"],
        "device_scale_factor": SCALES[width],
    }
    with browser.new_context(base_url=server.url, **options) as context:
        for name, show in SCREENS.items():
            page = context.new_page()
            credential = accounts.own_token(userId=USER) if name == "calendar" else KEY
            page.add_init_script(f"sessionStorage.setItem('moodreel.credential', '{credential}')")
            page.goto(f"/#{name}" if name in ("live", "words", "calendar", "log") else "/")
            page.locator("h1").wait_for()
            show(page)
            page.wait_for_timeout(600)
            page.evaluate(SHOW_TURN)
            page.wait_for_timeout(300)
            save(page, folder / f"{name}-{width}.webp")
            page.close()


def save(page: Page, path: Path) -> None:
    png = path.with_suffix(".png")
    card = page.locator(".companion")
    if card.count():
        card.screenshot(path=png)
    else:
        page.screenshot(path=png, full_page=True)
    with Image.open(png) as picture:
        picture.convert("RGB").save(path, quality=QUALITY, method=6)
    png.unlink()


def moment(page: Page) -> None:
    page.get_by_role("button", name="Turn on the camera").click()
    page.get_by_role("button", name="Start recording").wait_for()
    page.wait_for_timeout(3000)


def result(page: Page) -> None:
    off = {"enabled": False, "max_characters": 0}  # as by default
    page.route("**/api/companion", lambda route: route.fulfill(json=off))
    page.locator("input[type=file]").set_input_files(SMILE)
    page.locator(".result").wait_for(timeout=120_000)
    page.get_by_role("button", name="Ask for face and voice").click()
    page.get_by_text("From: face").wait_for(timeout=120_000)
    page.evaluate("window.scrollTo(0, 0)")


def companion(page: Page) -> None:
    page.locator("input[type=file]").set_input_files(SMILE)
    text = page.get_by_label("About this moment")
    text.fill("I said yes to the move. Now I keep counting boxes.", timeout=120_000)
    page.get_by_role("button", name="Ask me a question").click()
    page.locator(".question").get_by_text(QUESTION).wait_for()


def live(page: Page) -> None:
    page.get_by_role("button", name="Start").click()
    page.locator("h2.emotion", has_text="Happy").wait_for(timeout=60_000)
    page.wait_for_timeout(2000)


def words(page: Page) -> None:
    page.get_by_label("Your text").fill("Nailed the interview!! I can't believe it.")
    page.locator(".verdict .bars").wait_for(timeout=60_000)


def calendar(page: Page) -> None:
    page.locator("button.day").last.click()
    page.locator(".loop-of-day").wait_for()


def log(page: Page) -> None:
    page.locator("table").wait_for()


SCREENS = {
    "moment": moment,
    "result": result,
    "companion": companion,
    "live": live,
    "words": words,
    "calendar": calendar,
    "log": log,
}

if __name__ == "__main__":
    main()

"""Record a moment in a real browser, and see what the service says about it."""

import base64
import io
import re
import time
from email.utils import formatdate

import av
import pytest
from playwright.sync_api import Page, expect

from tests.studio.accessibility import assert_accessible
from tests.support import accounts
from tests.support.browser import CHROMIUM, SMILE, needs_chromium
from tests.support.server import KEY, Server, wait_until
from tests.support.synthetic_frames import crossing_frames, face_frames
from tests.support.synthetic_video import encode_video

pytestmark = [pytest.mark.browser, pytest.mark.server, needs_chromium]

FIRST_LOAD_BYTES = 150_000
PIXELS = """video => {
  const canvas = Object.assign(document.createElement("canvas"), {width: 32, height: 32});
  const context = canvas.getContext("2d");
  context.drawImage(video, 0, 0, 32, 32);
  return [...context.getImageData(0, 0, 32, 32).data];
}"""

SLOW_CAMERA = """window.streams = [];
const { mediaDevices } = navigator, open = mediaDevices.getUserMedia.bind(mediaDevices);
mediaDevices.getUserMedia = async (wanted) => {
  await new Promise(resolve => setTimeout(resolve, 500));
  streams.push(await open(wanted));
  return streams.at(-1);
};"""
RUNNING = "streams.filter(({active}) => active).length"

NO_MICROPHONE = """const { mediaDevices } = navigator, open = mediaDevices.getUserMedia.bind(mediaDevices);
mediaDevices.getUserMedia = async (wanted) => {
  if (wanted.audio) throw new DOMException("", "NotAllowedError");
  return open(wanted);
};"""

KEEP_CLIP = """const append = FormData.prototype.append;
FormData.prototype.append = function (name, value, ...rest) {
  if (name === "file") window.clip = value;
  return append.call(this, name, value, ...rest);
};"""


@pytest.fixture(scope="module")
def result(browser, server) -> Page:
    """The result of the example clip. Tests must leave it as it is."""
    with browser.new_context(base_url=server.url, viewport={"width": 1280, "height": 900}) as context:
        page = context.new_page()
        page.add_init_script(f"sessionStorage.setItem('moodreel.credential', '{KEY}')")
        choose_clip(page)
        yield page


def choose_clip(page: Page) -> None:
    page.goto("/")
    page.locator("input[type=file]").set_input_files(SMILE)
    page.locator(".result").wait_for(timeout=60_000)


def difference(before: list[int], after: list[int]) -> float:
    return sum(abs(one - other) for one, other in zip(before, after, strict=True)) / len(before)


def test_a_recorded_moment_becomes_an_emotion_and_a_loop_that_plays_and_has_a_voice(new_page):
    page = new_page()
    page.add_init_script(KEEP_CLIP)
    page.goto("/")
    page.get_by_label("With sound, for face and voice").check()
    page.get_by_role("button", name="Turn on the camera").click()
    page.get_by_role("radio", name="3 s").check(force=True)
    page.get_by_role("button", name="Start recording").click()
    page.get_by_role("button", name="Stop recording").wait_for()
    page.locator(".result").wait_for(timeout=90_000)
    expect(page.locator("h1")).to_have_text(re.compile("Happy|Neutral|Not sure"))
    expect(page.get_by_role("list", name="Probabilities").get_by_role("listitem")).to_have_count(5)
    loop = page.locator("#loop")
    assert loop.evaluate("video => !video.paused && video.loop && video.videoWidth > video.videoHeight")
    frames = []
    for _ in range(8):
        frames.append(loop.evaluate(PIXELS))
        time.sleep(0.3)
    assert max(difference(frames[0], frame) for frame in frames) > 0.5
    data = bytes(page.evaluate("async () => [...new Uint8Array(await window.clip.arrayBuffer())]"))
    with av.open(io.BytesIO(data)) as clip:
        assert {stream.type for stream in clip.streams} == {"video", "audio"}
    page.get_by_role("button", name="Ask for face and voice").click()
    expect(page.get_by_text("From: face, voice")).to_be_visible(timeout=60_000)
    expect(page.get_by_text("not for commercial use")).to_be_visible()


def test_an_unsure_answer_is_shown_as_such_with_a_tip(new_page, server: Server):
    fields = {"detail": "timeline", "explain": "true", "thumbnail": "true"}
    answer = server.call("POST", "/predict", files={"file": ("clip.mp4", SMILE.read_bytes())}, data=fields).json()
    answer["certain"], answer["quality"]["reason"] = False, "dark"
    page = new_page(viewport={"width": 390, "height": 844})
    page.route("**/predict", lambda route: route.fulfill(json=answer))
    choose_clip(page)
    expect(page.locator("h1")).to_have_text("Not sure")
    closest = f"Closest: Happy, {answer['confidence']:.0%}"
    expect(page.locator(".verdict .lead")).to_have_text(closest)
    expect(page.get_by_role("status")).to_have_text(f"Not sure what the face showed. {closest}.")
    expect(page.locator(".tip")).to_have_text("It was dark. Turn towards the light.")
    assert_accessible(page)


def test_the_first_load_is_small_and_every_file_comes_from_here(new_page):
    page = new_page(key=None)
    responses = []
    page.on("response", lambda response: responses.append(response))
    page.goto("/", wait_until="networkidle")
    assert sum(response.request.sizes()["responseBodySize"] for response in responses) < FIRST_LOAD_BYTES
    assert len(responses) > 5


def test_the_camera_that_is_turned_on_after_a_failure_is_shown_in_place_of_an_older_result(new_page, tmp_path):
    page = new_page()
    choose_clip(page)
    (tmp_path / "notes.pdf").write_bytes(b"%PDF-1.4")
    page.locator("input[type=file]").set_input_files(tmp_path / "notes.pdf")
    expect(page.get_by_role("alert")).to_contain_text("This file is not a video.")
    page.get_by_role("button", name="Turn on the camera").click()
    expect(page.get_by_role("button", name="Start recording")).to_be_visible()
    expect(page.locator("#preview")).to_be_visible()


def test_a_file_that_is_empty_or_a_folder_is_told(new_page, tmp_path):
    page = new_page()
    page.goto("/")
    (tmp_path / "empty.mp4").touch()
    page.locator("input[type=file]").set_input_files(tmp_path / "empty.mp4")
    expect(page.get_by_role("alert")).to_contain_text("This file is empty or cannot be opened.")
    page.reload()
    page.locator("h1").wait_for()
    session = page.context.new_cdp_session(page)
    dragged = {"items": [], "files": [str(tmp_path)], "dragOperationsMask": 1}
    for step, text in ("dragEnter", None), ("dragOver", "Drop the video"), ("drop", "This file is empty"):
        session.send("Input.dispatchDragEvent", {"type": step, "x": 200, "y": 200, "data": dragged})
        if text:
            expect(page.get_by_text(text)).to_be_visible()


def test_a_refused_camera_is_explained_and_a_file_still_works(new_page):
    page = new_page(camera=False)
    page.goto("/")
    page.get_by_role("button", name="Turn on the camera").click()
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("The camera is blocked")
    assert_accessible(page)
    alert.locator("input[type=file]").set_input_files(SMILE)
    expect(page.locator("h1")).to_have_text("Happy", timeout=60_000)


@pytest.mark.parametrize(("screen", "on", "off"), [("moment", "Turn on", "Turn off"), ("live", "Start", "Stop")])
def test_a_camera_that_is_taken_away_is_told(new_page, screen, on, off):
    page = new_page()
    page.add_init_script(SLOW_CAMERA)
    page.goto(f"/#{screen}")
    page.get_by_role("button", name=on).click()
    page.get_by_role("button", name=off).wait_for()
    page.evaluate("streams[0].getVideoTracks()[0].dispatchEvent(new Event('ended'))")
    expect(page.get_by_role("alert")).to_contain_text("The camera stopped. Turn it on again.")
    expect(page.get_by_role("button", name=on)).to_be_visible()
    assert page.evaluate(RUNNING) == 0


@pytest.mark.parametrize(("screen", "on", "off"), [("moment", "Turn on", "Turn off"), ("live", "Start", "Stop")])
def test_a_camera_that_was_asked_for_twice_is_opened_once(new_page, screen, on, off):
    page = new_page()
    page.add_init_script(SLOW_CAMERA)
    page.goto(f"/#{screen}")
    page.get_by_role("button", name=on).dblclick()
    page.get_by_role("button", name=off).wait_for()
    wait_until(lambda: page.evaluate("streams.length") == 2)
    assert page.evaluate(RUNNING) == 1
    page.get_by_role("button", name=off).click()
    assert page.evaluate(RUNNING) == 0


def test_a_file_that_is_chosen_before_the_camera_is_on_keeps_it_off(new_page):
    page = new_page()
    page.add_init_script(SLOW_CAMERA)
    page.route("**/predict", lambda route: None)  # never answered
    page.goto("/")
    page.get_by_role("button", name="Turn on the camera").click()
    page.locator("input[type=file]").set_input_files(SMILE)
    wait_until(lambda: page.evaluate("streams.length") == 1)
    page.wait_for_timeout(100)
    assert page.evaluate(RUNNING) == 0


def test_a_countdown_that_was_canceled_does_not_count_in_the_next(new_page):
    page = new_page()
    page.clock.install(time=0)
    page.goto("/")
    page.get_by_role("button", name="Turn on the camera").click()
    page.get_by_role("button", name="Start recording").wait_for()
    page.clock.pause_at(3600)
    page.get_by_role("button", name="Start recording").click()
    page.get_by_role("button", name="Do not record").click()
    page.get_by_role("button", name="Start recording").click()
    page.clock.run_for(1000)
    expect(page.locator(".count")).to_have_text("2")


def test_a_recording_that_will_have_no_sound_is_told(new_page):
    page = new_page()
    page.add_init_script(NO_MICROPHONE)
    page.goto("/")
    page.get_by_label("With sound, for face and voice").check()
    page.get_by_role("button", name="Turn on the camera").click()
    expect(page.get_by_role("alert")).to_contain_text("The microphone is blocked or missing.")
    expect(page.get_by_role("button", name="Start recording")).to_be_visible()


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("delete window.MediaRecorder", "This browser cannot record video"),
        (
            "navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('', 'NotFoundError') }",
            "No camera",
        ),
    ],
)
def test_a_browser_or_machine_that_cannot_record_is_explained(new_page, missing, message):
    page = new_page()
    page.add_init_script(missing)
    page.goto("/")
    page.get_by_role("button", name="Turn on the camera").click()
    expect(page.get_by_role("alert")).to_contain_text(message)


def test_the_key_is_asked_for_once_checked_and_kept_out_of_the_address(new_page):
    page = new_page(key=None)
    page.goto("/")
    page.locator("input[type=file]").set_input_files(SMILE)
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("API key or token").fill("“a key in typographic quotes”")
    dialog.get_by_role("button", name="Continue").click()
    expect(dialog.get_by_role("alert")).to_contain_text("This key is not valid here.")
    dialog.get_by_label("API key or token").fill("wrong")
    dialog.get_by_role("button", name="Continue").click()
    expect(dialog.get_by_role("alert")).to_contain_text("This key is not valid here.")
    assert_accessible(page)
    page.errors.remove("Failed to load resource: the server responded with a status of 401 (UNAUTHORIZED)")
    dialog.get_by_label("API key or token").fill(KEY)
    dialog.get_by_role("button", name="Continue").click()
    expect(page.locator("h1")).to_have_text("Happy", timeout=60_000)
    assert page.evaluate("sessionStorage.getItem('moodreel.credential')") == KEY
    assert page.evaluate("[localStorage.length, document.cookie, location.search]") == [0, "", ""]


@pytest.mark.parametrize("blocked", ['throw new DOMException("", "SecurityError")', "return null"])
def test_a_browser_that_blocks_storage_is_asked_for_the_key_once_a_page(new_page, blocked):
    page = new_page(key=None)
    page.add_init_script(f"Object.defineProperty(window, 'sessionStorage', {{ get() {{ {blocked}; }} }})")
    page.goto("/#words")
    page.get_by_label("API key or token").fill(KEY)
    page.get_by_role("button", name="Continue").click()
    expect(page.get_by_text("You are the only one connected.")).to_be_visible()
    page.get_by_role("link", name="Log").click()
    page.locator("table").wait_for()


def test_a_key_is_forgotten_with_what_the_page_shows_and_is_connected_to(new_page):
    page = new_page(key=None)
    page.goto("/#words")
    page.get_by_label("API key or token").fill(KEY)
    page.get_by_role("button", name="Continue").click()
    page.get_by_label("Your text").fill("secret")
    expect(page.get_by_text("You are the only one connected.")).to_be_visible()
    page.get_by_role("button", name="Key", exact=True).click()
    page.get_by_role("button", name="Forget it").click()
    expect(page.get_by_role("button", name="Turn on the camera")).to_be_visible()
    page.go_back()
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_label("Your text")).to_have_value("")
    expect(page.get_by_text("Not connected.")).to_be_visible()


def test_a_key_whose_check_is_canceled_is_not_kept(new_page):
    page = new_page(key=None)
    page.goto("/#words")
    held = []
    page.route("**/auth/profile", lambda route: held.append(route))
    page.get_by_label("API key or token").fill(KEY)
    page.get_by_role("button", name="Continue").click()
    wait_until(lambda: page.wait_for_timeout(10) or held)
    page.keyboard.press("Escape")
    expect(page.get_by_role("alert")).to_contain_text("This needs an API key")
    held[0].continue_()
    page.get_by_role("button", name="Enter a key or token").click()
    expect(page.get_by_label("API key or token")).to_have_value("")
    expect(page.get_by_role("button", name="Continue")).to_be_enabled()
    assert page.evaluate("sessionStorage.length") == 0


def test_a_users_token_works_like_a_key(new_page, server: Server):
    page = new_page(key=accounts.own_token(userId="studio-user"))
    choose_clip(page)
    expect(page.locator("h1")).to_have_text("Happy")
    assert server.log_rows(endpoint="/predict", client_id="studio")[0]["caller"].startswith("user-")


def test_a_problem_is_told_in_plain_words_and_can_be_retried(new_page, tmp_path):
    page = new_page()
    page.goto("/")
    (tmp_path / "broken.mp4").write_bytes(b"no video at all")
    page.locator("input[type=file]").set_input_files(tmp_path / "broken.mp4")
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("This file cannot be read as a video.")
    expect(alert.get_by_role("button", name="Try again")).to_have_count(0)
    page.errors.remove("Failed to load resource: the server responded with a status of 415 (UNSUPPORTED MEDIA TYPE)")
    page.route("**/predict", lambda route: route.abort())
    alert.locator("input[type=file]").set_input_files(SMILE)
    expect(alert).to_contain_text("The service cannot be reached.")
    page.errors.remove("Failed to load resource: net::ERR_FAILED")
    page.unroute("**/predict")
    alert.get_by_role("button", name="Try again").click()
    expect(page.locator("h1")).to_have_text("Happy", timeout=60_000)


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (200, "<h1>Sign in</h1>", "Something went wrong on the server."),
        (413, "<h1>Too large</h1>", "The file is too large for this service."),
        (503, '{"message": "no healthy upstream"}', "The service is busy."),
    ],
)
def test_an_answer_that_is_not_the_services_is_a_problem(new_page, status, body, message):
    page = new_page()
    page.route("**/predict", lambda route: route.fulfill(status=status, body=body, content_type="text/html"))
    page.goto("/")
    page.locator("input[type=file]").set_input_files(SMILE)
    expect(page.get_by_role("alert")).to_contain_text(message)
    page.errors[:] = [error for error in page.errors if f"status of {status}" not in error]


@pytest.mark.parametrize("unit", ["seconds", "date"])
def test_a_busy_service_says_when_to_try_again(new_page, unit):
    later = "3600" if unit == "seconds" else formatdate(time.time() + 3600, usegmt=True)
    page, calls = new_page(), []

    def answer(route):
        calls.append(route)
        route.fulfill(status=503, headers={"retry-after": later if len(calls) == 2 else "1"}, body="")

    page.route("**/predict", answer)
    page.goto("/")
    page.locator("input[type=file]").set_input_files(SMILE)
    alert = page.get_by_role("alert")
    alert.get_by_role("button", name="Try again", exact=True).click()  # after a second
    button = alert.get_by_role("button", name=re.compile(r"Try again in (59|60) minutes"))
    button.press("Enter")
    assert_accessible(page)
    assert len(calls) == 2
    page.errors[:] = [error for error in page.errors if "status of 503" not in error]


def test_a_clip_is_analyzed_while_another_screen_is_open(new_page):
    page, held = new_page(), []
    page.route("**/predict", lambda route: held.append(route))
    page.goto("/")
    page.locator("input[type=file]").set_input_files(SMILE)
    wait_until(lambda: page.wait_for_timeout(10) or held)
    page.get_by_role("link", name="Live").click()
    page.get_by_role("button", name="Start").wait_for()
    held[0].continue_()
    expect(page.get_by_role("status")).to_have_text("The face showed: Happy, 75%.", timeout=60_000)
    page.get_by_role("link", name="Moment").click()
    expect(page.locator("h1")).to_have_text("Happy")


def test_an_analysis_can_be_canceled(new_page):
    page = new_page()
    page.route("**/predict", lambda route: None)  # never answered
    page.goto("/")
    page.locator("input[type=file]").set_input_files(SMILE)
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("button", name="Turn on the camera")).to_be_visible()
    assert page.get_by_role("alert").count() == 0


def test_arrow_keys_and_pointer_step_through_the_clip(result: Page):
    slider = result.get_by_role("slider", name="Time in the clip")
    slider.focus()
    slider.press("Home")
    expect(slider).to_have_attribute("aria-valuetext", re.compile(r"^0\.0 s: Neutral"))
    slider.press("ArrowRight")
    expect(slider).to_have_attribute("aria-valuenow", re.compile(r"^0\.28"))  # 4 s / 14 frames
    clip = result.locator("#clip")
    wait_until(lambda: abs(clip.evaluate("video => video.currentTime") - 0.286) < 0.05)
    box = slider.bounding_box()
    result.mouse.move(box["x"] + 0.9 * box["width"], box["y"] + 50)
    expect(slider).to_have_attribute("aria-valuetext", re.compile("Happy"))


def test_the_result_is_still_there_after_another_screen(result: Page):
    result.get_by_role("slider").press("Home")
    result.get_by_role("link", name="Live").click()
    expect(result.get_by_role("button", name="Start")).to_be_visible()
    result.go_back()
    expect(result.locator("h1")).to_have_text("Happy")
    expect(result.locator("#loop")).to_have_js_property("paused", False)
    expect(result.get_by_role("slider")).to_have_attribute("aria-valuetext", re.compile(r"^0\.0 s: Neutral"))


def test_loop_and_poster_can_be_saved(result: Page):
    for name, file, first in (
        ("Save loop", "moodreel-happy.mp4", b"ftyp"),
        ("Save poster", "moodreel-happy.jpg", b"JFIF"),
    ):
        with result.expect_download() as download:
            result.get_by_role("link", name=name).click()
        assert download.value.suggested_filename == file
        assert first in download.value.path().read_bytes()[:16]


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 320)])
def test_every_state_is_accessible_and_fits_the_screen(new_page, scheme, width):
    page = new_page(viewport={"width": width, "height": 800}, color_scheme=scheme, reduced_motion="reduce")
    page.goto("/")
    page.get_by_role("button", name="Key").click()
    assert_accessible(page)
    page.keyboard.press("Escape")
    assert_accessible(page)
    page.get_by_role("button", name="Turn on the camera").click()
    page.get_by_role("button", name="Start recording").wait_for()
    assert_accessible(page)
    box = page.get_by_role("button", name="Turn off the camera").bounding_box()
    assert box["x"] + box["width"] <= width
    page.get_by_role("button", name="Turn off the camera").click()
    page.locator("input[type=file]").set_input_files(SMILE)
    page.locator(".result").wait_for(timeout=60_000)
    page.locator("summary").click()
    assert_accessible(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("#loop").evaluate("video => video.paused"), "no motion where it is reduced"


def test_on_a_phone_on_its_side_the_camera_is_in_sight_with_its_controls(new_page):
    page = new_page(viewport={"width": 844, "height": 390})
    page.goto("/")
    page.get_by_role("button", name="Turn on the camera").press("Enter")
    page.get_by_role("button", name="Start recording").wait_for()
    page.evaluate("scrollTo(0, 0)")
    box = page.locator(".stage").bounding_box()
    assert box["y"] + box["height"] <= 390


def test_on_a_phone_held_upright_the_controls_leave_the_face_in_sight(new_page):
    page = new_page(viewport={"width": 390, "height": 844})
    page.goto("/")
    page.get_by_role("button", name="Turn on the camera").click()
    controls = page.locator(".controls").bounding_box()
    stage = page.locator(".stage").bounding_box()
    assert controls["y"] - stage["y"] > stage["width"] * 0.75
    assert stage["y"] + stage["height"] < 844


def test_the_browsers_size_of_text_is_heeded(browser, server: Server):
    arguments = ["--no-sandbox", "--blink-settings=defaultFontSize=32"]
    executable = {"executable_path": CHROMIUM, "args": arguments}
    with browser.browser_type.launch(**executable) as large, large.new_page(base_url=server.url) as page:
        page.set_viewport_size({"width": 390, "height": 844})
        page.goto("/")
        stage, button = page.locator(".stage"), page.get_by_role("button", name="Turn on the camera")
        expect(button).to_have_css("font-size", "32px")
        outer, inner = stage.bounding_box(), button.bounding_box()
        assert outer["x"] < inner["x"] < inner["x"] + inner["width"] < outer["x"] + outer["width"]
        expect(page.get_by_role("link", name="Log")).to_be_in_viewport(ratio=1)
        page.evaluate(f"sessionStorage.setItem('moodreel.credential', '{accounts.own_token(roles=['ADMIN'])}')")
        page.get_by_role("link", name="Words").click()
        page.get_by_label("Your text").fill("I got the job!!")
        page.locator(".verdict .bars").wait_for(timeout=60_000)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        page.get_by_role("link", name="Calendar").click()
        expect(page.get_by_role("columnheader", name="Monday")).to_have_text(re.compile("M"))
        assert page.locator(".month th").evaluate_all("all => all.every(each => each.scrollWidth <= each.clientWidth)")
        page.get_by_role("link", name="Log").click()
        page.locator("table").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_in_colors_of_the_system_it_is_seen_what_is_current_and_chosen(new_page):
    page = new_page(forced_colors="active")
    page.goto("/")
    page.get_by_role("button", name="Turn on the camera").click()
    page.get_by_role("button", name="Start recording").wait_for()
    links, lengths = page.locator("nav a"), page.locator(".choice span")
    color = "element => getComputedStyle(element)[{!r}]"
    borders = [link.evaluate(color.format("borderBottomColor")) for link in links.all()]
    assert borders.count(borders[0]) == 1
    backgrounds = [length.evaluate(color.format("backgroundColor")) for length in lengths.all()]
    assert backgrounds.count(backgrounds[1]) == 1  # 5 s


def test_on_paper_the_letters_are_dark(new_page):
    page = new_page(color_scheme="dark")
    page.goto("/")
    expect(page.locator("body")).to_have_css("color", "rgb(238, 241, 244)")
    page.emulate_media(media="print")
    expect(page.locator("body")).to_have_css("color", "rgb(31, 41, 51)")


def test_the_keyboard_stays_on_the_page_when_another_clip_is_canceled(new_page):
    page = new_page()
    choose_clip(page)
    page.route("**/predict", lambda route: None)  # never answered
    page.locator("input[type=file]").set_input_files(SMILE)
    page.get_by_role("button", name="Cancel").press("Enter")
    expect(page.locator("main")).to_be_focused()
    expect(page.locator("h1")).to_have_text("Happy")


def test_several_faces_can_be_chosen(new_page, tmp_path):
    _times, frames = zip(*crossing_frames(15, 3), strict=True)
    (tmp_path / "two.mp4").write_bytes(encode_video(frames, fps=15))
    page = new_page()
    page.goto("/")
    page.locator("input[type=file]").set_input_files(tmp_path / "two.mp4")
    faces = page.get_by_role("group", name="Faces in the clip")
    expect(faces.get_by_role("radio")).to_have_count(2, timeout=60_000)
    expect(faces.locator("img")).to_have_count(2)
    faces.get_by_text(re.compile(r"Face \d")).click()
    expect(page.locator(".verdict .lead")).to_contain_text("On average over the clip")
    assert_accessible(page)


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_a_video_can_be_dropped_or_pasted(new_page, way):
    page = new_page()
    page.goto("/")
    page.locator("h1").wait_for()
    clip = base64.b64encode(SMILE.read_bytes()).decode()
    page.evaluate(
        """([way, clip]) => {
          const bytes = Uint8Array.from(atob(clip), character => character.charCodeAt(0));
          const data = new DataTransfer();
          data.items.add(new File([bytes], "clip.mp4", {type: "video/mp4"}));
          dispatchEvent(way === "drop"
            ? new DragEvent("drop", {dataTransfer: data, cancelable: true})
            : new ClipboardEvent("paste", {clipboardData: data}));
        }""",
        [way, clip],
    )
    expect(page.locator("h1")).to_have_text("Happy", timeout=60_000)


def test_a_picture_that_is_pasted_with_a_text_is_left_to_the_browser(new_page):
    page = new_page(key=None)
    page.goto("/")
    page.get_by_role("button", name="Key", exact=True).click()
    page.get_by_label("API key or token").evaluate(
        """field => {
          const data = new DataTransfer();
          data.items.add(new File(["picture"], "text.png", {type: "image/png"}));
          field.dispatchEvent(new ClipboardEvent("paste", {clipboardData: data, bubbles: true}));
        }"""
    )
    expect(page.get_by_text("This file is not a video.")).to_have_count(0)


def test_text_that_is_dragged_is_left_to_the_browser(new_page):
    page = new_page()
    page.goto("/")
    page.locator("h1").wait_for()
    is_left = page.evaluate("""() => {
      const data = new DataTransfer();
      data.setData("text/plain", "a word");
      return dispatchEvent(new DragEvent("dragover", {dataTransfer: data, cancelable: true}));
    }""")
    assert is_left
    expect(page.get_by_text("Drop the video")).to_have_count(0)


def test_the_loop_can_be_shared_where_the_browser_can(new_page):
    page = new_page()
    page.add_init_script(
        "navigator.canShare = () => true; navigator.share = async ({files}) => { window.shared = files[0].name; }"
    )
    choose_clip(page)
    page.get_by_role("button", name="Share").click()
    assert page.evaluate("window.shared") == "moodreel-happy.mp4"


def test_a_clip_that_the_browser_cannot_play_still_has_its_chart(new_page, tmp_path):
    clip = tmp_path / "clip.gif"
    clip.write_bytes(encode_video(face_frames(12, 160, 120), container="gif", codec="gif", pix_fmt="rgb8", fps=6))
    page = new_page()
    page.goto("/")
    page.locator("input[type=file]").set_input_files(clip)
    page.get_by_role("slider", name="Time in the clip").wait_for(timeout=60_000)
    expect(page.locator("#clip")).to_have_count(0)

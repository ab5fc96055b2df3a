"""Words, live video, face and voice, the calendar and the log in a real browser."""

import json
import re
import time

import av
import pytest
from playwright.sync_api import Page, expect

from tests.studio.accessibility import assert_accessible
from tests.studio.month import write_month
from tests.support import accounts
from tests.support.browser import SMILE, needs_chromium
from tests.support.server import KEY, Server, wait_until
from tests.support.synthetic_image import encode_image
from tests.support.websocket_client import WebSocketClient

pytestmark = [pytest.mark.browser, pytest.mark.server, needs_chromium]

PHONE = {"viewport": {"width": 320, "height": 800}, "color_scheme": "dark"}
CALL = {"timestamp": "2026-11-30T12:00:00Z", "method": "GET", "endpoint": "/ready", "status_code": 200, "success": True}
CALL |= {"latency_ms": 1.0, "request_id": "1"}
CALL |= dict.fromkeys(("client_id", "prediction", "confidence", "error"))


def assert_fits(page: Page) -> None:
    assert_accessible(page)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_words_are_classified_while_they_are_typed(new_page, server: Server):
    page = new_page(**PHONE)
    page.goto("/")
    page.get_by_role("link", name="Words").click()
    page.get_by_label("Your text").press_sequentially("I got the job!!")
    expect(page.locator(".verdict h2")).to_have_text("Joy", timeout=60_000)
    expect(page.get_by_role("list", name="Scores").get_by_role("listitem")).to_have_count(7)
    expect(page.get_by_text("You are the only one connected.")).to_be_visible()
    with WebSocketClient(server):
        expect(page.get_by_text("2 people are connected.")).to_be_visible()
    assert_fits(page)
    page.get_by_label("Your text").fill("وأخيرا حصلت على الوظيفة!")
    expect(page.get_by_label("Your text")).to_have_css("direction", "rtl")
    page.get_by_label("Your text").fill("long " * 500)
    expect(page.get_by_text("The text is cut off at 2000 characters.")).to_be_visible()
    page.get_by_label("Your text").fill("")
    expect(page.get_by_text("The emotions appear here.")).to_be_visible()


def test_an_answer_to_a_text_that_was_deleted_is_not_shown(new_page):
    sockets, texts = [], []

    def answer(socket):
        sockets.append(socket)
        socket.on_message(
            lambda message: (
                texts.append(message)
                if "text" in json.loads(message)
                else socket.send(json.dumps({"type": "connection_update", "active_connections": 1}))
            )
        )

    page = new_page()
    page.route_web_socket(re.compile("/api/ws"), answer)
    page.goto("/#words")
    page.get_by_label("Your text").fill("I got the job!!")
    wait_until(lambda: page.wait_for_timeout(10) or texts)
    page.get_by_label("Your text").fill("")
    page.wait_for_timeout(1000)
    scores = {"label": "joy", "score": 0.9, "scores": {"joy": 0.9}, "language_supported": True}
    sockets[0].send(json.dumps({"type": "emotion_classification", **scores}))
    page.wait_for_timeout(200)
    expect(page.get_by_text("The emotions appear here.")).to_be_visible()


def test_a_text_without_words_has_no_answer_and_is_not_tried_again(new_page):
    page = new_page()
    page.goto("/#words")
    text = page.get_by_label("Your text")
    text.fill("I am so happy")
    expect(page.locator(".verdict .bars")).to_be_visible()
    text.fill("\u2060\u2060")
    expect(page.get_by_role("alert")).to_contain_text("There are no words in the text.")
    expect(page.locator(".verdict .bars")).to_have_count(0)
    expect(page.get_by_role("button", name="Try again")).to_have_count(0)
    text.fill("I am sad")
    expect(page.locator(".verdict h2")).to_have_text("Sadness")
    expect(page.get_by_role("alert")).to_have_count(0)


def test_a_text_that_was_too_many_can_be_sent_again_and_is_kept_for_the_next_visit(new_page):
    texts = []

    def answer(socket):
        def receive(message):
            if "text" not in json.loads(message):
                return socket.send(json.dumps({"type": "connection_update", "active_connections": 1}))
            texts.append(message)
            return socket.send(json.dumps({"type": "error", "code": "rate_limited", "message": "…"}))

        socket.on_message(receive)

    page = new_page()
    page.route_web_socket(re.compile("/api/ws"), answer)
    page.goto("/#words")
    page.get_by_label("Your text").fill("I got the job!!")
    expect(page.get_by_role("alert")).to_contain_text("Wait a minute or two, then try again.")
    page.get_by_role("button", name="Try again").click()
    wait_until(lambda: page.wait_for_timeout(10) or len(texts) == 2)
    page.get_by_role("link", name="Live").click()
    page.get_by_role("link", name="Words").click()
    expect(page.get_by_label("Your text")).to_have_value("I got the job!!")
    wait_until(lambda: page.wait_for_timeout(10) or len(texts) == 3)
    page.get_by_label("Your text").fill("")
    expect(page.get_by_role("alert")).to_have_count(0)


def test_who_types_slowly_sends_no_more_than_a_text_a_second(new_page):
    texts = []

    def answer(socket):
        def receive(message):
            texts.append(message)
            socket.send(json.dumps({"type": "connection_update", "active_connections": 1}))

        socket.on_message(receive)

    page = new_page()
    page.clock.install()
    page.route_web_socket(re.compile("/api/ws"), answer)
    page.goto("/#words")
    expect(page.get_by_text("You are the only one connected.")).to_be_visible()
    texts.clear()
    for number in range(20):
        page.get_by_label("Your text").press(str(number % 10))
        page.clock.run_for(700)
    page.clock.run_for(1000)
    assert 10 <= len(texts) <= 15, "the service takes 60 in a minute"
    assert json.loads(texts[-1])["text"] == "01234567890123456789"


def test_a_wrong_key_of_a_socket_is_asked_for_again(new_page):
    page = new_page(key="wrong")
    page.goto("/#words")
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("alert")).to_contain_text("This key or token is not valid here, or it has expired.")
    dialog.get_by_role("button", name="Cancel").click()
    expect(page.get_by_text("Not connected.")).to_be_visible()
    page.get_by_role("button", name="Enter a key or token").click()
    dialog.get_by_label("API key or token").fill(KEY)
    dialog.get_by_role("button", name="Continue").click()
    expect(page.get_by_text("You are the only one connected.")).to_be_visible()


def test_a_service_without_a_free_connection_is_busy(new_page):
    page = new_page()
    page.route_web_socket("**/api/ws*", lambda socket: socket.close(code=1013))
    page.goto("/#words")
    expect(page.get_by_role("alert")).to_contain_text("The service is busy.")


def test_a_cookie_that_has_expired_does_not_keep_a_key_from_connecting(new_page, server: Server):
    page = new_page()
    past = int(time.time()) - 99
    cookie = {"name": "access_token", "value": accounts.own_token(iat=past - 900, exp=past), "url": server.url}
    page.context.add_cookies([cookie])
    page.goto("/#words")
    page.get_by_label("Your text").fill("I got the job!!")
    expect(page.locator(".verdict h2")).to_have_text("Joy", timeout=60_000)


def test_live_marks_the_face_and_tells_its_rate(new_page):
    page = new_page(viewport={"width": 1280, "height": 900})
    page.goto("/#live")
    page.get_by_role("button", name="Start").click()
    expect(page.locator(".verdict h2")).to_have_text(re.compile("Happy|Neutral"), timeout=60_000)
    # The clip's face is in the middle of the mirrored picture, a sixth of it wide.
    box = page.locator(".boxes .box")
    expect(box).to_have_count(1)
    picture, face = page.locator("#live").bounding_box(), box.bounding_box()
    center = (face["x"] + face["width"] / 2 - picture["x"]) / picture["width"]
    assert 0.42 < center < 0.58
    assert 0.12 < face["width"] / picture["width"] < 0.3
    assert float(page.locator(".figures dd").first.inner_text()) > 0
    assert_fits(page)
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_role("button", name="Start")).to_be_visible()


def test_live_tells_that_the_service_cannot_be_reached_and_connects_when_it_can(new_page):
    page = new_page()
    page.goto("/#live")
    page.get_by_role("button", name="Start").wait_for()
    page.context.set_offline(True)
    page.get_by_role("button", name="Start").click()
    expect(page.get_by_role("alert")).to_contain_text("Connecting again")
    page.context.set_offline(False)
    page.locator(".verdict h2").wait_for()
    expect(page.get_by_role("alert")).to_have_count(0)
    assert all("ERR_INTERNET_DISCONNECTED" in error for error in page.errors)
    page.errors.clear()


def test_live_heeds_the_suggestion_of_the_service(new_page):
    page = new_page()
    page.goto("/#live")
    page.get_by_role("button", name="Start").wait_for()
    rates = page.evaluate("""async () => {
      const { Live } = await import(new URL("live.js", document.querySelector("script").src));
      const live = new Live({update() {}, announce() {}});
      live.heed({reason: "latency", frame_rate: 4, width: 320, height: 180});
      const slow = [live.frameRate, live.width, live.suggestion !== null];
      live.heed({reason: null, frame_rate: 15, width: 640, height: 360});
      return [slow, [live.frameRate, live.width, live.suggestion !== null]];
    }""")
    assert rates == [[4, 320, True], [15, 640, False]]


def test_a_note_of_a_failed_frame_is_gone_with_the_next_detection(new_page):
    page = new_page()
    page.goto("/#live")
    page.get_by_role("button", name="Start").wait_for()
    notes = page.evaluate("""async () => {
      const { Live } = await import(new URL("live.js", document.querySelector("script").src));
      const live = new Live({update() {}, announce() {}});
      live.problem = {message: "A frame failed."};
      const before = live.problem;
      live.show({time: performance.now(), faces: []});
      return [before, live.problem];
    }""")
    assert notes == [{"message": "A frame failed."}, None]


def answer_live(page: Page, faces: list[dict]) -> list[str]:
    """Answer the page's Socket.IO with these faces in a frame of 640 × 360, and return what it sends to sign in."""
    sent = []

    def answer(socket):
        def receive(message):
            if not str(message).startswith("40"):
                return
            sent.append(message)
            detection = {"faces": faces, "width": 640, "height": 360, "time": 0, "dropped": 0}
            socket.send('40/emotion-detection,{"sid": "2"}')
            socket.send("42/emotion-detection," + json.dumps(["detection_result", detection]))

        socket.on_message(receive)
        socket.send('0{"sid": "1", "upgrades": [], "pingInterval": 25000, "pingTimeout": 20000, "maxPayload": 1000000}')

    page.route_web_socket(re.compile("socket.io"), answer)
    return sent


@pytest.mark.parametrize("width", [360, 1280])
def test_the_names_of_faces_at_the_edges_of_the_live_picture_are_in_sight(new_page, width):
    rest = {"emotion": "Surprise", "confidence": 0.9, "probabilities": {"Surprise": 0.9}}
    boxes = [[-20, -10, 120, 120], [560, 0, 90, 100], [0, 270, 90, 90]]
    page = new_page(viewport={"width": width, "height": 800})
    answer_live(page, [{"id": 10 + index, "box": box, **rest} for index, box in enumerate(boxes)])
    page.goto("/#live")
    page.get_by_role("button", name="Start").click()
    expect(page.locator(".boxes .tag")).to_have_count(3)
    stage = page.locator(".stage").bounding_box()
    for tag in page.locator(".boxes .tag").all():
        box = tag.bounding_box()
        assert stage["x"] <= box["x"] < box["x"] + box["width"] <= stage["x"] + stage["width"]
        assert stage["y"] <= box["y"]


def test_live_connects_again_with_a_new_key(new_page):
    page = new_page()
    sent = answer_live(page, [])
    page.goto("/#live")
    page.get_by_role("button", name="Start").click()
    page.get_by_text("No face is in view.").wait_for()
    page.get_by_role("button", name="Key", exact=True).click()
    token = accounts.own_token(userId="live-user")
    page.get_by_label("API key or token").fill(token)
    page.get_by_role("button", name="Continue").click()
    wait_until(lambda: page.wait_for_timeout(10) or len(sent) == 2)
    assert token in sent[1]
    expect(page.get_by_role("button", name="Stop")).to_be_visible()


def test_face_and_voice_tells_what_it_had_and_what_it_missed(new_page):
    page = new_page(**PHONE)
    page.goto("/")
    page.locator("input[type=file]").set_input_files(SMILE)
    page.get_by_role("button", name="Ask for face and voice").click(timeout=60_000)
    expect(page.get_by_text("From: face")).to_be_visible(timeout=60_000)
    expect(page.get_by_text("Without voice: there is none in the clip.")).to_be_visible()
    expect(page.locator(".bars").last.get_by_role("listitem")).to_have_count(8)
    assert_fits(page)


def test_the_calendar_shows_the_days_of_a_user_with_their_loops(new_page, server: Server):
    write_month(server, "calendar-user", SMILE.read_bytes(), days=20)
    page = new_page(key=accounts.own_token(userId="calendar-user"), **PHONE)
    page.goto("/#calendar")
    today = page.locator("button.day").last
    today.focus()
    expect(today).to_have_class(re.compile("e-happy"))
    expect(today).to_have_attribute("aria-label", re.compile("Happy"))
    expect(today).to_have_attribute("aria-current", "date")
    expect(page.locator("[aria-current=date]")).to_have_count(1)
    loop = page.locator("video.loop-of-day")
    expect(loop).to_have_attribute("aria-label", re.compile(r"^The moment at \d+:\d\d\s[AP]M: Happy$"))
    expect(loop).to_have_js_property("paused", False)
    expect(page.get_by_text("This week")).to_be_visible()
    expect(page.get_by_text(re.compile("than usual")).first).to_be_visible()
    assert_fits(page)
    page.get_by_role("button", name="Next month").click()
    expect(page.get_by_text("No moments in this month yet.")).to_be_visible()
    expect(page.get_by_role("status")).to_have_text(page.get_by_role("heading", level=1).inner_text())
    page.get_by_role("link", name="Words").click()
    expect(page.get_by_role("status")).to_be_empty()


def test_a_day_shows_a_loop_of_its_emotion_rather_than_a_newer_picture(new_page, server: Server):
    write_month(server, "picture-user", SMILE.read_bytes(), days=1)
    token = accounts.own_token(userId="picture-user")
    with av.open(str(SMILE)) as clip:
        picture = encode_image(next(clip.decode(video=0)).to_ndarray(format="rgb24"))
    headers = {"authorization": f"Bearer {token}"}
    assert server.call("POST", "/api/detect", headers=headers, files={"file": picture}).headers["x-history-id"]
    page = new_page(key=token)
    page.goto("/#calendar")
    page.locator("button.day").focus()
    expect(page.locator("video.loop-of-day")).to_have_attribute("aria-label", re.compile("Happy$"))


def test_the_calendar_shows_the_month_that_was_chosen_last(new_page, server: Server):
    write_month(server, "months-user", SMILE.read_bytes(), days=1)
    page = new_page(key=accounts.own_token(userId="months-user"))
    page.goto("/#calendar")
    expect(page.locator("button.day")).to_have_count(1)
    held = []
    page.route("**/api/history/summary?by=day*", lambda route: route.continue_() if held else held.append(route))
    page.get_by_role("button", name="Previous month").click()
    wait_until(lambda: page.wait_for_timeout(10) or held)
    expect(page.locator("button.day")).to_have_count(0)
    expect(page.get_by_text("Loading…")).to_be_visible()
    page.get_by_role("button", name="Next month").click()
    expect(page.locator("button.day")).to_have_count(1)
    with page.expect_response(held[0].request.url):
        held[0].continue_()
    page.wait_for_timeout(200)
    expect(page.locator("button.day")).to_have_count(1)


def test_the_calendar_shows_nothing_of_another_user(new_page, server: Server):
    write_month(server, "first-user", SMILE.read_bytes(), days=1)
    page = new_page(key=accounts.own_token(userId="first-user"))
    page.goto("/#calendar")
    expect(page.get_by_text("This week")).to_be_visible()
    held = []
    page.route("**/api/history/summary?by=day*", lambda route: held.append(route))
    page.get_by_role("button", name="Next month").click()
    page.get_by_role("button", name="Previous month").click()
    wait_until(lambda: page.wait_for_timeout(10) or len(held) == 2)
    page.get_by_role("button", name="Key", exact=True).click()
    page.get_by_label("API key or token").fill(accounts.own_token(userId="second-user"))
    page.get_by_role("button", name="Continue").click()
    wait_until(lambda: page.wait_for_timeout(10) or len(held) == 3)
    expect(page.get_by_text("This week")).to_have_count(0)
    for route in reversed(held):
        with page.expect_response(route.request.url):
            route.continue_()
    page.wait_for_timeout(200)
    expect(page.get_by_text("No moments in this month yet.")).to_be_visible()


def test_a_moment_that_was_deleted_elsewhere_is_gone_from_the_calendar(new_page, server: Server):
    write_month(server, "deleting-user", SMILE.read_bytes(), days=1)
    token = accounts.own_token(userId="deleting-user")
    page = new_page(key=token)
    page.goto("/#calendar")
    day = page.locator("button.day")
    expect(day).to_have_count(1)
    assert page.request.delete("/api/history", headers={"authorization": f"Bearer {token}"}).ok
    day.focus()
    expect(page.get_by_text("No moments in this month yet.")).to_be_visible()
    expect(page.get_by_role("alert")).to_have_count(0)
    page.errors.remove("Failed to load resource: the server responded with a status of 404 (NOT FOUND)")


def test_the_calendar_stays_if_a_loop_cannot_be_loaded(new_page, server: Server):
    write_month(server, "loop-user", SMILE.read_bytes(), days=1)
    page = new_page(key=accounts.own_token(userId="loop-user"))
    page.route("**/media/*", lambda route: route.abort())
    page.goto("/#calendar")
    page.locator("button.day").focus()
    expect(page.get_by_role("alert")).to_contain_text("The service cannot be reached.")
    page.errors.remove("Failed to load resource: net::ERR_FAILED")
    page.unroute("**/media/*")
    expect(page.locator("button.day")).to_be_visible()
    page.get_by_role("button", name="Try again").click()
    page.locator("video.loop-of-day").wait_for()


@pytest.mark.parametrize(
    ("screen", "ready"),
    [
        ("calendar", "No moments in this month yet."),
        ("log", "Latency, p50"),
        ("words", "You are the only one connected."),
    ],
)
def test_a_screen_without_a_key_is_loaded_when_one_is_entered(new_page, screen, ready):
    page = new_page(key=None)
    page.goto(f"/#{screen}")
    if screen != "calendar":
        page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    page.get_by_role("alert").wait_for()
    page.get_by_role("button", name="Key", exact=True).click()
    page.get_by_label("API key or token").fill(accounts.own_token(userId="late-user", roles=["ADMIN"]))
    page.get_by_role("button", name="Continue").click()
    expect(page.get_by_text(ready)).to_be_visible()
    expect(page.get_by_role("alert")).to_have_count(0)


@pytest.mark.parametrize("screen", ["calendar", "log"])
def test_an_answer_that_is_no_json_is_a_problem(new_page, screen):
    page = new_page(key=accounts.own_token(userId="proxy-user", roles=["ADMIN"]))
    page.route(re.compile("/logs|/api/history"), lambda route: route.fulfill(body="<h1>Sign in</h1>"))
    page.goto(f"/#{screen}")
    expect(page.get_by_role("alert")).to_contain_text("Something went wrong on the server.")


def test_the_calendar_asks_an_api_key_for_a_user(new_page):
    page = new_page()
    page.goto("/#calendar")
    expect(page.get_by_role("alert")).to_contain_text("A calendar belongs to a signed-in user.")
    assert_accessible(page)


def test_the_log_is_filtered_paged_and_saved(new_page, server: Server):
    for number in range(30):
        server.call("GET", "/auth/profile", headers={"x-api-key": KEY, "x-client-id": f"log-{number % 2}"})
    server.call("GET", "/auth/profile", headers={"x-api-key": "wrong", "x-client-id": "log-0"})
    page = new_page(viewport={"width": 1280, "height": 900})
    page.goto("/#log")
    page.locator("table").wait_for()
    assert page.locator("#values-client_id option[value=log-0]").count() == 1
    page.get_by_label("Client").fill("log-0")
    page.get_by_role("button", name="Show").click()
    expect(page.locator(".figures dd").first).to_have_text("16")
    expect(page.locator(".figures dd").nth(1)).to_have_text("1 (6%)")
    expect(page.locator("tbody tr")).to_have_count(16)
    page.get_by_role("combobox", name="Error").fill("unauthorized")
    page.get_by_role("button", name="Show").click()
    expect(page.locator(".figures dd").nth(1)).to_have_text("1 (100%)")
    page.get_by_role("combobox", name="Error").fill("")
    page.get_by_label("Client").fill("")
    page.get_by_label("Endpoint").fill("/auth/profile")
    page.get_by_label("Outcome").select_option("Succeeded")
    page.get_by_role("button", name="Show").click()
    expect(page.locator("tbody tr")).to_have_count(25)
    page.get_by_role("button", name="Older").click()
    expect(page.locator("tbody tr").first).to_contain_text("/auth/profile")
    expect(page.get_by_role("button", name="Newer")).to_be_enabled()
    assert_fits(page)
    with page.expect_download() as download:
        page.get_by_role("button", name="Save CSV").click()
    lines = download.value.path().read_text().splitlines()
    assert "endpoint" in lines[0]
    assert len(lines) >= 31
    assert all("/auth/profile" in line for line in lines[1:])


def test_the_log_has_every_filter_of_the_service(new_page, server: Server):
    page = new_page(viewport={"width": 1280, "height": 900})
    page.goto("/#log")
    page.locator("table").wait_for()
    documented = server.call("GET", "/openapi.json").json()["paths"]["/logs"]["get"]["parameters"]
    filters = {each["name"] for each in documented if each["in"] == "query"} - {"limit", "cursor"}
    names = page.locator(".filters [name]").evaluate_all("fields => fields.map((field) => field.name)")
    assert set(names) == filters


def test_the_log_stays_on_its_page_if_older_calls_cannot_be_loaded(new_page):
    page = new_page()
    page.route("**/logs?*", lambda route: route.fulfill(json={"logs": [CALL] * 25, "next_cursor": "2"}))
    page.goto("/#log")
    expect(page.locator("tbody tr")).to_have_count(25)
    page.route("**/logs?*", lambda route: route.abort())
    page.get_by_role("button", name="Older").click()
    expect(page.get_by_role("alert")).to_contain_text("The service cannot be reached.")
    page.errors.remove("Failed to load resource: net::ERR_FAILED")
    expect(page.locator("tbody tr")).to_have_count(25)


def test_the_log_goes_back_beyond_the_files_of_pages(new_page):
    file = CALL | {"endpoint": "/static/<path:filename>"}
    newest, older = {"logs": [file] * 3, "next_cursor": "2"}, {"logs": [CALL], "next_cursor": None}
    page = new_page()
    page.route("**/logs?*", lambda route: route.fulfill(json=older if "cursor" in route.request.url else newest))
    page.goto("/#log")
    page.get_by_role("button", name="Older").click()
    expect(page.locator("tbody tr")).to_have_count(1)


@pytest.mark.parametrize(("name", "value"), [("Status", "99999"), ("From", "275000-12-31T23:59")])
def test_the_browser_tells_which_filter_the_log_cannot_take(new_page, name, value):
    page = new_page(timezone_id="America/Los_Angeles")
    page.goto("/#log")
    field = page.get_by_label(name, exact=True)
    field.fill(value)
    page.get_by_role("button", name="Show").click()
    expect(field).to_be_focused()
    assert not field.evaluate("field => field.validity.valid")
    expect(page.get_by_role("alert")).to_have_count(0)


def test_the_log_keeps_its_filters_while_another_screen_is_open(new_page):
    page, queries = new_page(viewport={"width": 390, "height": 844}, timezone_id="Asia/Kolkata"), []
    answer = {"logs": [CALL], "next_cursor": None}
    page.route("**/logs?*", lambda route: queries.append(route.request.url) or route.fulfill(json=answer))
    page.goto("/#log")
    page.locator("summary").click()
    page.get_by_label("From").fill("2026-11-30T10:00")
    page.get_by_label("To", exact=True).fill("2026-11-30T10:05")
    page.get_by_label("Client").fill("app")
    page.get_by_label("Outcome").select_option("Failed")
    page.get_by_label("Files of pages too").check()
    page.get_by_role("button", name="Show").click()
    wait_until(lambda: page.wait_for_timeout(10) or len(queries) == 2)
    page.get_by_role("link", name="Live").click()
    page.get_by_role("button", name="Start").wait_for()
    page.go_back()
    expect(page.get_by_label("From")).to_have_value("2026-11-30T10:00")
    expect(page.get_by_label("Client")).to_have_value("app")
    expect(page.get_by_label("Outcome")).to_have_value("False")
    expect(page.get_by_label("Files of pages too")).to_be_checked()
    wait_until(lambda: page.wait_for_timeout(10) or len(queries) == 3)
    assert queries[1] == queries[2]
    assert "client_id=app" in queries[2]
    assert "start_date=2026-11-30T04%3A30%3A00.000Z" in queries[2]
    assert "end_date=2026-11-30T04%3A35%3A59.000Z" in queries[2], "the service includes the second, the page the minute"


def test_a_log_that_could_not_be_saved_is_saved_when_tried_again(new_page):
    page = new_page()
    page.goto("/#log")
    page.locator("tbody tr").first.wait_for()
    page.route("**/logs?*", lambda route: route.abort())
    page.get_by_role("button", name="Save CSV").click()
    page.get_by_role("alert").wait_for()
    page.errors.remove("Failed to load resource: net::ERR_FAILED")
    page.unroute("**/logs?*")
    with page.expect_download():
        page.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("alert")).to_have_count(0)


def test_the_id_of_a_request_is_read_and_copied_from_the_log(new_page):
    page = new_page()
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    answer = {"logs": [CALL | {"request_id": "an-id"}], "next_cursor": None}
    page.route("**/logs?*", lambda route: route.fulfill(json=answer))
    page.goto("/#log")
    expect(page.get_by_text("an-id", exact=True)).to_be_visible()
    page.get_by_role("button", name="Copy request id").press("Enter")
    expect(page.get_by_role("status")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == "an-id"
    assert_fits(page)


def test_dates_are_written_as_in_the_users_country(new_page):
    page = new_page(locale="en-GB")
    page.goto("/#log")
    expect(page.locator("tbody td").first).to_have_text(re.compile(r"^\d+ \w+, \d\d?:\d\d:\d\d$"))


def test_a_log_of_several_pages_is_saved_as_one_file(new_page):
    pages = [{"body": "endpoint\n/predict\n", "headers": {"x-next-cursor": "2"}}, {"body": "endpoint\n/thumbnail\n"}]
    page = new_page()
    page.goto("/#log")
    page.get_by_role("button", name="Save CSV").wait_for()
    page.route(
        "**/logs?*", lambda route: route.fulfill(content_type="text/csv", **pages["cursor=2" in route.request.url])
    )
    with page.expect_download() as download:
        page.get_by_role("button", name="Save CSV").click()
    assert download.value.path().read_text() == "endpoint\n/predict\n/thumbnail\n"


def test_a_log_that_is_too_long_for_a_file_says_so(new_page):
    page = new_page()
    page.goto("/#log")
    page.get_by_role("button", name="Save CSV").wait_for()
    answer = {"body": "endpoint\n/predict\n", "headers": {"x-next-cursor": "2"}}
    page.route("**/logs?*", lambda route: route.fulfill(content_type="text/csv", **answer))
    with page.expect_download() as download:
        page.get_by_role("button", name="Save CSV").click()
    assert len(download.value.path().read_text().splitlines()) == 101
    expect(page.get_by_text("The file contains only the newest 100,000 calls.").first).to_be_visible()


def test_a_user_who_may_not_read_the_log_is_told_so(new_page):
    page = new_page(key=accounts.own_token(userId="no-admin"))
    page.goto("/#log")
    expect(page.get_by_role("alert")).to_contain_text(
        "This needs an API key of the service, or a token with the role ADMIN."
    )
    page.errors.remove("Failed to load resource: the server responded with a status of 403 (FORBIDDEN)")
    page.get_by_role("button", name="Enter a key or token").click()
    page.get_by_label("API key or token").fill(KEY)
    page.get_by_role("button", name="Continue").click()
    page.locator("table").wait_for()


def test_the_dialog_of_the_key_is_gone_with_the_screen_that_asked_for_it(new_page):
    page = new_page(key=None)
    page.goto("/#live")
    page.get_by_role("link", name="Words").click()
    page.get_by_role("dialog").wait_for()
    page.evaluate("location.hash = 'log'")
    expect(page).to_have_title("Log · moodreel")
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("alert")).to_contain_text("This needs an API key")
    page.go_back()
    page.get_by_role("dialog").wait_for()
    page.go_back()
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page.get_by_role("button", name="Start")).to_be_visible()


def test_a_page_whose_files_do_not_come_can_be_loaded_again(new_page):
    page = new_page()
    page.route("**/strings/*.json", lambda route: route.abort())
    page.goto("/")
    link = page.get_by_role("alert").get_by_role("link", name="reload the page")
    link.wait_for()
    page.errors.clear()
    page.unroute("**/strings/*.json")
    link.click()
    page.locator("h1").wait_for()
    expect(page.get_by_role("alert")).to_have_count(0)


def test_a_screen_whose_files_do_not_come_is_loaded_without_losing_the_others(new_page):
    page = new_page()
    page.goto("/#log")
    page.get_by_label("Client").fill("app")
    page.get_by_role("button", name="Show").click()
    files = re.compile("words.js|health")
    page.route(files, lambda route: route.abort())
    page.get_by_role("link", name="Words").click()
    retry = page.get_by_role("alert").get_by_role("button", name="Try again")
    for _ in range(2):
        with page.expect_event("requestfailed", lambda request: files.search(request.url)):
            retry.click()
        retry.wait_for()
    page.unroute(files)
    retry.click()
    page.get_by_label("Your text").wait_for()
    page.errors.clear()
    page.get_by_role("link", name="Log").click()
    expect(page.get_by_label("Client")).to_have_value("app")


def test_each_screen_opens_by_keyboard_and_has_a_title(new_page):
    page = new_page()
    page.goto("/")
    page.locator("h1").wait_for()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    strings = json.loads((SMILE.parents[1] / "api" / "static" / "studio" / "strings" / "en.json").read_text())
    for name in strings["screens"].values():
        page.get_by_role("link", name=name, exact=True).press("Enter")
        expect(page).to_have_title(f"{name} · moodreel")
        expect(page.get_by_role("link", name=name, exact=True)).to_have_attribute("aria-current", "page")
    page.evaluate("location.hash = 'constructor'")  # no screen, but a name that every object has
    expect(page).to_have_title("Moment · moodreel")
    expect(page.get_by_role("alert")).to_have_count(0)


def test_the_keyboard_finds_the_button_in_the_place_of_the_one_that_was_pressed(new_page):
    page = new_page(viewport={"width": 320, "height": 640})
    page.goto("/")
    page.get_by_role("button", name="Turn on the camera").press("Enter")
    expect(page.get_by_role("button", name="Start recording")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Do not record")).to_be_focused()
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Turn off the camera").press("Enter")
    expect(page.get_by_role("button", name="Turn on the camera")).to_be_focused()
    assert_fits(page)

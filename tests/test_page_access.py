"""The page for everybody: by keyboard alone, by ear, on a wide screen and on a phone's."""

import re

import pytest
from axe_playwright_python.sync_playwright import Axe
from browser import CUT_OFF, WIDTHS, visiting
from playwright.sync_api import expect

FOCUSABLE = """() => {
  const kinds = 'a[href], button:enabled, input, select, summary, [tabindex="0"]';
  window.focusable = [...document.querySelectorAll(kinds)].filter(e => e.checkVisibility());
  return focusable.length;
}"""
FOCUSED = """() => {
  const e = document.activeElement, shown = getComputedStyle(e.type === 'file' ? e.closest('label') : e);
  return {at: focusable.indexOf(e), ring: shown.outlineStyle === 'none' ? 0 : parseFloat(shown.outlineWidth)};
}"""
SAID = """() => {
  window.said = [];
  const status = document.getElementById('status');
  new MutationObserver(() => said.push(status.textContent)).observe(status, {childList: true});
}"""


@pytest.fixture(params=WIDTHS)
def page(browser, page_server, request):
    with visiting(browser, page_server.url, request.param) as found:
        found.goto(page_server.url)
        expect(found.get_by_label("Model")).to_be_visible()
        yield found


def empty(page):
    expect(page.get_by_role("table")).to_be_hidden()


def example(page):
    page.get_by_role("button", name="Use the example").click()
    expect(page.get_by_role("table")).to_be_visible()


def explained(page):
    example(page)
    page.get_by_text("What these words mean").click()


def untrained(page):
    example(page)
    page.get_by_label("Model").select_option(index=1)
    expect(page.get_by_role("rowheader")).to_have_count(1)


def wrong(page):
    name = f"{'a-long-name-of-a-recording-' * 6}.hea"
    page.get_by_label("Choose files").set_input_files([{"name": name, "mimeType": "", "buffer": b"?" * 200}])
    expect(page.get_by_role("alert")).to_contain_text("not an ECG")


def asking(page):
    page.get_by_label("Choose files").set_input_files([{"name": "a.csv", "mimeType": "", "buffer": b"II\n0\n"}])
    expect(page.get_by_label("Samples per second")).to_be_focused()


def unscored(page):
    raw = b"II\n" + b"0\n" * 5000
    page.get_by_label("Choose files").set_input_files([{"name": "flat.csv", "mimeType": "", "buffer": raw}])
    page.get_by_label("Samples per second").fill("500")
    page.keyboard.press("Enter")
    expect(page.get_by_role("img")).to_be_visible()


@pytest.mark.parametrize("state", [empty, example, explained, untrained, wrong, asking, unscored])
def test_nothing_is_cut_off_and_axe_finds_no_fault(page, state):
    state(page)
    assert page.evaluate(CUT_OFF) == {"wider": 0, "hidden": []}
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


@pytest.mark.parametrize("width", [320, 360])
def test_a_long_name_of_a_model_is_not_wider_than_a_phone(browser, page_server, width):
    def renamed(route):
        answer = route.fetch()
        told = answer.json()
        told["models"][0]["name"] = "emergency-laboratory-of-the-north-campus"
        route.fulfill(response=answer, json=told)

    with visiting(browser, page_server.url, width) as page:
        page.route("**/v1/models", renamed)
        page.goto(page_server.url)
        expect(page.get_by_label("Model")).to_have_value(re.compile(r"^[a-z-]{40}@3$"))
        assert page.evaluate(CUT_OFF) == {"wider": 0, "hidden": []}


@pytest.mark.parametrize("state", [empty, example, asking])
def test_tab_reaches_everything_and_shows_where_it_is(page, state):
    state(page)
    wanted = page.evaluate(FOCUSABLE)
    page.evaluate("document.activeElement.blur()")
    reached = []
    for _ in range(wanted + 3):
        page.keyboard.press("Tab")
        reached.append(page.evaluate(FOCUSED))
    assert {f["at"] for f in reached} >= set(range(wanted))
    assert min(f["ring"] for f in reached if f["at"] >= 0) >= 2


def test_from_opening_to_the_strip_by_keys_alone(page):
    for _ in range(2):
        page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Use the example")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Estimates from the example")).to_be_focused()
    strip = page.get_by_role("region", name="ECG strip")
    for _ in range(8):
        page.keyboard.press("Tab")
        if strip.evaluate("e => e === document.activeElement"):
            break
    expect(strip).to_be_focused()
    zoom, left = page.get_by_label("Zoom", exact=True), lambda: strip.evaluate("e => e.scrollLeft")
    page.keyboard.press("0")
    expect(zoom).to_have_text("100%")
    page.keyboard.press("Home")
    second, view = 25 * 96 / 25.4, strip.evaluate("e => e.clientWidth")
    for key, to in (("ArrowRight", second), ("PageDown", second + 0.9 * view), ("PageUp", second), ("ArrowLeft", 0)):
        page.keyboard.press(key)
        assert left() == pytest.approx(to, abs=1.5), key
    page.keyboard.press("End")
    assert left() == strip.evaluate("e => e.scrollWidth - e.clientWidth") > 1000
    page.keyboard.press("Home")
    assert left() == 0
    for key, to in (("+", "125%"), ("-", "100%"), ("-", "80%"), ("0", "100%")):
        page.keyboard.press(key)
        expect(zoom).to_have_text(to)


def test_the_buttons_zoom_and_move_as_the_keys_do(page):
    example(page)
    strip, zoom = page.get_by_role("region", name="ECG strip"), page.get_by_label("Zoom", exact=True)
    page.get_by_role("button", name="Later").click()
    assert strip.evaluate("e => e.scrollLeft") > 0
    page.get_by_role("button", name="Earlier").click()
    assert strip.evaluate("e => e.scrollLeft") == 0
    nearer = page.get_by_role("button", name="Zoom in")
    while nearer.is_enabled():
        nearer.click()
    expect(zoom).to_have_text("400%")


def test_what_a_screen_reader_finds(page):
    example(page)
    for landmark in ("banner", "main", "contentinfo"):
        expect(page.get_by_role(landmark)).to_be_visible()
    for region in ("Open an ECG", "The ECG", "ECG strip", "The estimates"):
        expect(page.get_by_role("region", name=region, exact=region != "ECG strip")).to_be_visible()
    levels = page.get_by_role("heading").evaluate_all(
        "all => all.filter(e => e.checkVisibility()).map(e => +e.tagName[1])"
    )
    assert levels == [1, 2, 2, 3, 4, 3]
    table = page.get_by_role("table", name="The estimates")
    headers = [cell.text_content() for cell in table.get_by_role("columnheader").all()]
    assert headers == ["Indicator", "Estimate", "How well it tells"]
    rows = table.get_by_role("row").all()[1:]
    assert len(rows) == 9
    assert all((row.get_by_role("rowheader").count(), row.get_by_role("cell").count()) == (1, 2) for row in rows)


def test_what_is_going_on_is_announced(page):
    page.evaluate(SAID)
    example(page)
    expect(page.locator("#status")).to_contain_text("9 indicators estimated from 2 of 3 windows of 10 s; 3 flagged.")
    assert page.evaluate("said[0]") == "Estimating from the example, a made-up heart …"
    assert page.get_by_role("status").first.evaluate("e => !e.closest('[aria-busy=true]')")

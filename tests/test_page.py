"""The page in a real browser, against the endpoint's own app: an ECG is opened, and what is told of it is right.

The network's outputs are given (page_server.py), so the figures are computed here, by hand, from what was given.
"""

import math
import os
import re
import signal
import subprocess
import sys

import pytest
from browser import visiting
from endpoint import bundle, free_port
from page_server import INDICATORS, serving
from page_steps import heading, use_example
from playwright.sync_api import expect

from anyecg_ray import keys
from anyecg_ray.keys import Gate

NAMES = {
    "potassium_high": "Potassium: high",
    "potassium_low": "Potassium: low",
    "calcium_low": "Calcium, total: low",
    "creatinine_high": "Creatinine: high",
    "hemoglobin_low": "Hemoglobin: low",
    "nt_probnp_high": "NT-proBNP: high",
    "wbc_high": "White blood cells: high",
    "potassium_value": "Potassium: value",
    "wbc_value": "White blood cells: value",
}
CHANCES = {key: 1 / (1 + math.exp(-out[0])) for key, (out, _) in INDICATORS.items() if len(out) == 1}


@pytest.fixture
def scored(page):
    use_example(page)
    return page


def cells(page, key):
    """The words of a row's name, estimate and skill."""
    table = page.get_by_role("table", name="The estimates")
    row = table.get_by_role("row").filter(has=page.get_by_role("rowheader", name=NAMES[key]))
    told = [row.get_by_role("rowheader"), *row.get_by_role("cell").all()]
    return [" ".join(cell.inner_text().split()) for cell in told]


def test_it_loads_from_its_own_server_alone_and_without_a_word_in_the_console(browser, page_server):
    answers = []
    with visiting(browser, page_server.url) as page:
        page.on("response", lambda answer: answers.append((answer.url.removeprefix(page_server.url), answer.status)))
        page.goto(page_server.url)
        expect(page.get_by_label("Model")).to_have_value("emergency-labs@3")
    files = ["/", "/static/page.css", "/static/page.js", "/static/strip.js", "/static/words.js", "/v1/models"]
    assert sorted(path for path, _ in answers) == files
    assert {status for _, status in answers} == {200}


# ---- the table


def test_the_example_is_one_click_away(scored, page_server):
    assert page_server.asked == ["emergency-labs"]
    told = "9 indicators estimated from 2 of 3 windows of 10 s; 3 flagged."
    expect(scored.locator("#status")).to_have_text(told)
    expect(scored.get_by_text("not a measurement, not for diagnosis")).to_be_visible()
    windows = scored.get_by_role("listitem").all_inner_texts()
    used, unused = "2 windows of 10 seconds used.", "20 s to 30 s: not used: no signal (an electrode may be off)."
    assert windows == [used, unused]


def test_the_surest_come_first_and_values_last(scored):
    def sureness(key):
        return abs(CHANCES[key] - INDICATORS[key][1].get("threshold", 0.5))

    found = scored.get_by_role("rowheader").all_inner_texts()
    wanted = [*sorted(CHANCES, key=sureness, reverse=True), "potassium_value", "wbc_value"]
    assert [name.split("\n")[0] for name in found] == [NAMES[key] for key in wanted]


@pytest.mark.parametrize("key", CHANCES)
def test_a_probability_stands_beside_its_threshold(scored, key):
    p, card = CHANCES[key], INDICATORS[key][1]
    _, told, _ = cells(scored, key)
    figure = f"{100 * p:.0f}%" if "calibration" in card else f"{p:.2f}"
    assert told.startswith(f"{figure} ")
    if "threshold" not in card:
        assert told.endswith("score, not calibrated; no threshold")
        assert "flagged" not in told
        return
    assert told.endswith(f"probability; threshold {100 * card['threshold']:.0f}%")
    flagged = f"flagged {key.rpartition('_')[2]}" if p >= card["threshold"] else "not flagged"
    assert flagged in told


def test_the_bar_and_its_mark_are_as_long_as_what_they_stand_for(scored):
    row = scored.get_by_role("row").filter(has_text="Potassium: high")
    bar, filled, mark = (row.locator(part).bounding_box() for part in (".bar", ".bar i", ".bar u"))
    inner = bar["width"] - 2  # within its border
    assert filled["width"] == pytest.approx(inner * CHANCES["potassium_high"], abs=1)
    assert mark["x"] + mark["width"] / 2 - bar["x"] - 1 == pytest.approx(inner * 0.3, abs=1)


def test_how_well_it_tells_is_said_in_words(scored):
    told = {key: cells(scored, key)[2] for key in INDICATORS}
    for key, (_, card) in INDICATORS.items():
        assert told[key].startswith(card.get("tier", "Not evaluated")), key
    assert told["potassium_high"] == (
        "strong AUROC 0.86 (0.81–0.90) "
        "On held-out patients it told high from not high in 86 of 100 pairs (81 to 90); guessing: 50."
    )
    assert "AUROC 0.62 On held-out patients it told low from not low in 62 of 100" in told["potassium_low"]
    assert told["hemoglobin_low"].endswith("It was not shown to be better than guessing.")
    assert sum("not shown to be better" in words for words in told.values()) == 1


@pytest.mark.parametrize(("key", "unit", "half"), [("potassium_value", "mmol/L", 0.005), ("wbc_value", "10³/µL", 0.05)])
def test_a_value_has_its_unit_and_interval(scored, key, unit, half):
    (mean, log_variance), card = INDICATORS[key]
    value, spread = card["offset"] + card["scale"] * mean, 1.96 * card["scale"] * math.exp(log_variance / 2)
    _, told, _ = cells(scored, key)
    found = re.fullmatch(rf"([\d.]+) {unit} 95% interval ([\d.]+) to ([\d.]+)", told)
    assert [float(v) for v in found.groups()] == pytest.approx([value, value - spread, value + spread], abs=1.1 * half)


def test_a_model_of_random_weights_is_told_to_be_one(scored, page_server):
    warning = scored.get_by_text("This model has not been trained")
    expect(warning).to_be_hidden()
    scored.get_by_label("Model").select_option(index=1)
    expect(warning).to_be_visible()
    expect(
        scored.get_by_text("It reads all twelve leads, 10 seconds at a time, and estimates 1 indicator.")
    ).to_be_visible()
    expect(scored.locator("#status")).to_contain_text("1 indicator estimated")
    assert page_server.asked[0] == "emergency-labs" != page_server.asked[-1]


def test_a_key_is_asked_for_and_kept_nowhere(browser):
    secret, key = keys.made("clinic")
    with serving(Gate(None, key.line())) as server, visiting(browser, server.url) as page:
        page.goto(server.url)
        field, use = page.get_by_label("API key"), page.get_by_role("button", name="Use this key")
        expect(field).to_be_focused()
        expect(page.get_by_role("alert")).to_be_empty()
        page.get_by_role("button", name="Use the example").click()
        for wrong in ("anyecg_wrong", "naïve–key"):
            field.fill(wrong)
            use.click()
            expect(page.get_by_role("alert")).to_contain_text("This server does not know that key.")
            expect(field).to_be_focused()
        field.fill(f" {secret} ")
        use.click()
        expect(heading(page)).to_be_visible()
        expect(field).to_be_hidden()
        kept = "[JSON.stringify({...localStorage, ...sessionStorage}), document.cookie, location.href]"
        assert page.evaluate(kept) == ["{}", "", server.url + "/"]
        assert secret not in page.content()
        assert page.context.storage_state() == {"cookies": [], "origins": []}
        page.reload()
        expect(field).to_be_visible()


@pytest.mark.slow
def test_what_anyecg_serve_serves_is_this_page(browser, tmp_path):
    url = f"http://127.0.0.1:{(port := free_port())}"
    line = [sys.executable, "-m", "anyecg_ray", "serve", "--bundle", bundle(tmp_path), "--no-auth", "--port", str(port)]
    env = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env) as process:
        try:
            assert process.stdout.readline().startswith(f"{url} serves "), process.stderr.read()
            with visiting(browser, url) as page:
                page.goto(url)
                expect(page.get_by_text("This model has not been trained")).to_be_visible()
                use_example(page)
                expect(page.locator("#status")).to_contain_text("2 indicators estimated from 2 of 3 windows of 10 s")
                expect(page.get_by_role("rowheader")).to_have_count(2)
                expect(page.get_by_role("img")).to_be_visible()
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(90) == 0

"""Files that a person gives to the page: a record, a CSV, and all that can be wrong with them or with the server."""

import pytest
from page_steps import RECORD, choose, csv, drop, heading, use_example
from playwright.sync_api import expect

from anyecg_ray import example
from anyecg_ray.leads import TWELVE_LEADS


@pytest.mark.parametrize("give", [choose, drop])
def test_a_record_is_chosen_or_dropped(page, give):
    give(page, RECORD)
    expect(heading(page)).to_have_text("Estimates from example")
    expect(page.get_by_role("img")).to_have_accessible_name(f"ECG of 12 leads ({', '.join(TWELVE_LEADS)}), 30 seconds.")
    expect(page.get_by_role("row").filter(has_text="Potassium: high")).to_contain_text("83%")


def test_the_same_file_can_be_chosen_again(page, page_server):
    for n in (1, 2):
        choose(page, RECORD)
        expect(heading(page)).to_have_text("Estimates from example")
        assert len(page_server.asked) == n


def test_a_csv_without_a_rate_asks_for_it(page, page_server):
    choose(page, [("holter.csv", csv(["II"], 1000 * example.signals()[1, :, None]))])
    expect(page.get_by_text("holter.csv: a CSV does not say how fast it was sampled")).to_be_visible()
    rate = page.get_by_label("Samples per second")
    expect(rate).to_be_focused()
    page.get_by_role("button", name="Estimate", exact=True).click()
    assert rate.evaluate("e => e.validity.valueMissing")
    assert page_server.asked == []
    rate.fill("250")
    page.get_by_label("Unit of the samples").select_option("µV")
    page.get_by_role("button", name="Estimate", exact=True).click()
    expect(heading(page)).to_have_text("Estimates from holter.csv")
    expect(page.get_by_role("img")).to_have_accessible_name("ECG of 1 lead (II), 30 seconds.")
    expect(page.locator("#status")).to_contain_text("2 of 3 windows")


@pytest.mark.parametrize(("mark", "comma"), [(",", "."), (";", ",")])
@pytest.mark.parametrize(("name", "per_second"), [("time", 1), ("ms", 1000)])
def test_the_rate_of_a_csv_follows_from_its_times(page, mark, comma, name, per_second):
    rows = [(per_second * i / 250, mv) for i, mv in enumerate(example.signals()[1])]
    drop(page, [("timed.csv", csv([name, "II"], rows, mark, comma))])
    expect(page.get_by_label("Samples per second")).to_have_value("250")
    page.get_by_role("button", name="Estimate", exact=True).click()
    expect(heading(page)).to_have_text("Estimates from timed.csv")


def test_a_new_file_takes_the_old_estimates_away(page):
    use_example(page)
    choose(page, [("next.csv", csv(["II"], [[0.0]] * 10))])
    expect(page.get_by_label("Samples per second")).to_be_visible()
    expect(page.get_by_role("table")).to_be_hidden()


@pytest.mark.parametrize(
    ("files", "what", "mend"),
    [
        ([("notes.hea", b"hello")], "This file is not an ECG that can be read here.", "Export it again"),
        ([("empty.hea", b"")], "This file is not an ECG that can be read here.", "Export it again"),
        (RECORD[:1], "A signal file of this record is missing.", "Choose the .hea file together with"),
        (RECORD[1:], "There is no .hea file among these files.", "Choose the .hea file together with"),
        ([RECORD[0], ("example.dat", b"")], "The signal file ends too early.", "Copy it again"),
        ([("scan.pdf", b"%PDF-1.7")], "There is no .hea file among these files.", "Choose the .hea file"),
    ],
    ids=["unreadable", "empty", "header alone", "signals alone", "empty signals", "another kind"],
)
def test_a_file_that_will_not_do_is_told_plainly(page, files, what, mend):
    choose(page, files)
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text(what)
    expect(alert).to_contain_text(mend)
    expect(page.get_by_role("table")).to_be_hidden()
    use_example(page)
    expect(alert).to_be_empty()


@pytest.mark.parametrize(
    ("raw", "what"),
    [
        (b"", "This file cannot be read as a table of numbers."),
        (b"time,II\n", "This recording is too short."),
        (b"1,2\n3,4\n", "The first line of the CSV has no lead names."),
        (b"V9\n0\n", "A lead that the model reads is not in this recording."),
    ],
    ids=["empty", "names alone", "no names", "other leads"],
)
def test_a_csv_that_will_not_do_is_told_plainly(page, raw, what):
    choose(page, [("bad.csv", raw)])
    page.get_by_label("Samples per second").fill("250")
    page.get_by_role("button", name="Estimate", exact=True).click()
    expect(page.get_by_role("alert").locator("strong")).to_have_text(what)


def test_an_ecg_with_nothing_usable_is_shown_and_not_scored(page, page_server):
    choose(page, [("flat.csv", csv(["II"], [[0.0]] * 5000))])
    page.get_by_label("Samples per second").fill("500")
    page.keyboard.press("Enter")
    expect(heading(page)).to_have_text("No estimate from flat.csv")
    told = "No estimate: a lead that the model reads has no signal in any window; an electrode may be off."
    expect(page.locator("#status")).to_have_text(told)
    expect(page.get_by_role("img")).to_be_visible()
    expect(page.get_by_role("table")).to_be_hidden()
    assert page.get_by_role("listitem").all_inner_texts()[0] == "No window could be used."
    assert page_server.asked == []


def test_a_busy_server_is_told_and_asked_again(page, page_server):
    page_server.busy = True
    page.get_by_role("button", name="Use the example").click()
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("The server has more to do than it takes on.")
    expect(alert).to_contain_text("Nothing was lost: try again in a moment. The server asks to wait 2 s.")
    again = page.get_by_role("button", name="Try again")
    with page.expect_response("**/v1/estimates*"):
        again.click()
    expect(again).to_be_focused()
    page_server.busy = False
    again.click()
    expect(heading(page)).to_be_visible()
    expect(alert).to_be_empty()


@pytest.mark.parametrize(
    ("status", "kind", "body"),
    [
        (502, "text/html", "<html>Bad gateway</html>"),
        (408, "text/plain", "Request was timed out after 180 s"),
        (404, "text/plain", "Path '/v1/estimates' not found."),
        (403, "application/json", '{"code": "too_short", "detail": "a proxy\'s own"}'),
        (200, "text/html", "<html>Log in to the hospital's network</html>"),
    ],
)
def test_an_answer_that_is_not_the_servers_own_is_told_and_the_ecg_is_not_blamed(page, status, kind, body):
    answering = {"status": status, "content_type": kind, "body": body}
    page.route("**/v1/estimates*", lambda route: route.fulfill(**answering))
    page.get_by_role("button", name="Use the example").click()
    alert = page.get_by_role("alert")
    expect(alert.locator("strong")).to_have_text("What came back is no answer of this server’s own.")
    page.unroute("**/v1/estimates*")
    page.get_by_role("button", name="Try again").click()
    expect(heading(page)).to_be_visible()
    expect(alert).to_be_empty()

"""The demo as `make demo` runs it, smaller."""

import json

import pandas as pd
import pytest
from browser import WIDTHS, chromium, look

from anyecg_ray import model
from anyecg_ray.cli import main


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    import contextlib
    import io

    folder, out = tmp_path_factory.mktemp("demo"), io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main(["demo", "--out", str(folder), "--encounters", "60", "--minutes", "1", "--epochs", "2"]) == 0
    return folder, out.getvalue()


def test_it_shows_the_table_the_counts_and_where_the_picture_is(shown):
    folder, text = shown
    assert "potassium_high" in text
    assert "  ok " in text
    assert "no number here is about anybody" in text
    assert f"{folder}/strip.png" in text
    rows = pd.read_parquet(folder / "estimates" / "ecg_lab_estimate")
    assert rows.probability.notna().any()


def test_its_bundle_says_how_good_it_is(shown):
    told = json.loads((shown[0] / "report" / "report.json").read_text())["indicators"]
    card = model.load_card(str(shown[0] / "bundle"))
    assert card.metrics["test"]["split"] == "test"
    # so few patients have no figure; `make demo` has enough
    assert {i.key: i.auroc for i in card.indicators} == {r["indicator"]: r.get("auroc") for r in told}


def test_the_picture_is_a_picture(shown):
    from matplotlib import image

    pixels = image.imread(shown[0] / "strip.png")
    assert pixels.shape[1] > 1000
    assert len({tuple(p) for p in pixels[::7, ::7].reshape(-1, pixels.shape[2]).round(2)}) > 10


def test_the_page_shows_it_all(shown):
    page = (shown[0] / "index.html").read_text()
    for told in ('src="strip.png"', 'href="report/report.html"', "potassium_high", "Spans by status"):
        assert told in page
    assert (shown[0] / "report" / "report.html").exists()


@pytest.mark.parametrize("page", ["index.html", "report/report.html"])
def test_pages_in_a_browser(shown, page):
    with chromium() as browser:
        for width in WIDTHS:
            seen = look(browser, shown[0] / page, width, shown[0] / f"{page.replace('/', '-')}-{width}.png")
            assert not seen.errors
            assert not seen.outside  # self-contained
            assert seen.wider <= 0
            assert not seen.hidden


def test_the_lines_it_prints_are_the_commands_that_it_ran(shown):
    import shlex

    from anyecg_ray import cli

    lines = [line.removeprefix("$ anyecg ") for line in shown[1].splitlines() if line.startswith("$ anyecg ")]
    assert [line.split()[0] for line in lines] == ["synth", "manifest", "prepare", "train", "evaluate", "backfill"]
    for line in lines:  # each is a whole command: its settings are accepted as they stand
        verb, *flags = shlex.split(line)
        entry = cli.VERBS[verb]
        module = __import__(f"anyecg_ray.{entry.module}", fromlist=["x"])
        cli.load(getattr(module, entry.settings), verb, flags)

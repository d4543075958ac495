"""What a person does on the page, and finds there: for the tests that drive it in a browser."""

import base64
import re

from playwright.sync_api import expect

from anyecg_ray import example

RECORD = [("example.hea", example.header()), ("example.dat", example.samples())]

DROP = """files => {
  const carried = new DataTransfer();
  for (const [name, bytes] of files)
    carried.items.add(new File([Uint8Array.from(atob(bytes), c => c.charCodeAt(0))], name));
  const drop = document.getElementById('drop');
  for (const type of ['dragenter', 'dragover', 'drop'])
    drop.dispatchEvent(new DragEvent(type, {dataTransfer: carried, bubbles: true, cancelable: true}));
}"""


def use_example(page):
    page.get_by_role("button", name="Use the example").click()
    expect(heading(page)).to_have_text("Estimates from the example, a made-up heart")


def heading(page):
    return page.get_by_role("region", name=re.compile("^(Estimates|No estimate) from")).get_by_role("heading", level=2)


def choose(page, files):
    told = [{"name": name, "mimeType": "", "buffer": raw} for name, raw in files]
    page.get_by_label("Choose files").set_input_files(told)


def drop(page, files):
    page.evaluate(DROP, [(name, base64.b64encode(raw).decode()) for name, raw in files])


def csv(names, rows, mark=",", comma="."):
    lines = [mark.join(names), *(mark.join(f"{v:.3f}".replace(".", comma) for v in row) for row in rows)]
    return "\n".join([*lines, ""]).encode()

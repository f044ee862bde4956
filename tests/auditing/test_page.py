"""The page of an audit: its script finds what it asks for; a browser, if there is one, runs it."""

import html.parser
import json
import re
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest

from memjax.auditing import files, page
from memjax.auditing.issues import ISSUES
from memjax.reporting.style import drawn

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# What a reviewer's keys do: keep the first, drop the second, go back, take the second one's back.
KEYS = """<script>
const press = (key) => document.activeElement.dispatchEvent(
  new KeyboardEvent("keydown", { key: key, bubbles: true, cancelable: true }));
document.querySelector("#gallery li").focus();
["k", "d", "ArrowLeft", "u", "ArrowLeft", "ArrowRight", "ArrowRight", "R"].forEach(press);
at("state").value = "decided"; at("state").dispatchEvent(new Event("change"));
let exported = ""; HTMLAnchorElement.prototype.click = function () { exported = this.href; };
at("export").click();
const seen = document.createElement("pre"); seen.id = "seen";
seen.textContent = JSON.stringify({ decisions: decisions, cards: at("gallery").children.length,
  exported: decodeURIComponent(exported.split(",").slice(1).join(",")),
  width: document.documentElement.scrollWidth, window: window.innerWidth });
document.body.append(seen);
</script></body>"""


def _page(n):
    rng = np.random.default_rng(0)
    labels, wrong = np.arange(n) % 2, np.linspace(0.99, 0.01, n)
    issue = np.where(wrong > 0.5, "wrong label", "").astype(object)
    names = ("cat", "</script><b>")
    ids = np.array([f"=f{row}.png" for row in range(n)], object)
    scores = pd.DataFrame({"inside_margin": -wrong})
    table = files.make_table(
        np.arange(n), ids, labels, 1 - labels, wrong, wrong, issue, issue, names, scores
    )
    issues = pd.DataFrame({name: issue == name for name in ISSUES})
    evidence = pd.DataFrame(
        {"score": ["combined"], "auroc": [0.9], "average_precision": [0.8], "precision_at_k": [0.7]}
    )
    images = rng.integers(0, 256, (n, 8, 8, 1), dtype=np.uint8)
    return page.render("Audit", ["all"], evidence, {}, table, issues, images, names, "identity")


class _Ids(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.ids, self.scripts, self._in_script = [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.ids += [value for name, value in attributes if name == "id"]
        self._in_script = tag == "script"

    def handle_data(self, data):
        if self._in_script:
            self.scripts.append(data)

    def handle_endtag(self, tag):
        self._in_script = False


def test_the_script_finds_every_element_that_it_asks_for_and_all_suspects():
    parsed = _Ids(_page(40))
    assert len(parsed.ids) == len(set(parsed.ids))
    data, script = parsed.scripts
    asked = set(re.findall(r'at\("(\w+)"\)', script))
    looped = re.search(r"for \(const id of \[(.*?)\]\) at\(id\)", script)[1]
    asked |= set(re.findall(r'"(\w+)"', looped))
    assert len(asked) >= 10
    assert asked <= set(parsed.ids)
    rows = json.loads(data)["rows"]
    assert [row["rank"] for row in rows] == list(range(1, 41))
    assert "</script>" not in data
    assert "$$" not in script, "an escape of the template is left"


def _seen(text, folder, width, height):
    """Returns what the browser saw after the keys; None where there is no browser."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        return None
    (folder / "page.html").write_text(text.replace("</body>", KEYS))
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    command += [f"--user-data-dir={folder / 'profile'}", f"--window-size={width},{height}"]
    command += ["--dump-dom", f"file://{folder / 'page.html'}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return json.loads(re.search(r'<pre id="seen">(.*?)</pre>', done.stdout, re.DOTALL)[1])


@pytest.mark.parametrize("width", [1280, 500])
def test_a_review_by_keyboard_makes_decisions(tmp_path, width):
    text = _page(140)
    for key in ("keep", "relabel", "drop"):
        assert f'{key[0]}: "{key}"' in text
    seen = _seen(text, tmp_path, width, 800)
    if seen is None:  # no browser here: the markup was looked at above and in the other test
        return
    assert seen["decisions"] == {"0": "keep", "2": "relabel"}
    lines = seen["exported"].splitlines()
    assert lines[0] == "index,decision,new_label,example_id"
    assert lines[1] == '0,keep,,"\'=f0.png"'
    assert seen["cards"] == len(lines) - 1 == 2
    assert seen["width"] <= seen["window"], "the page scrolls sideways"


def test_dollars_in_the_names_of_classes_are_drawn_as_dollars():
    names = ("$x_$", "$5 {b$", "a")
    assert drawn(page.draw_confusion(np.full((3, 3), 1 / 3), names), "svg")

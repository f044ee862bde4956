"""The report says everything, in one file that needs nothing else."""

import dataclasses
import json
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from memjax.errors import InputError
from memjax.reporting.claims import VERDICTS, Claim, judge_all, not_judged
from memjax.reporting.measurement import over_seeds
from memjax.reporting.report import read_claims, write_report
from memjax.reporting.report_parts import FigureResult, RunDescription
from memjax.reporting.style import new_figure, save

VOID = {"meta", "img", "br", "hr", "link", "input"}
RUN = RunDescription(
    title="Memorization <again>",
    scale="smoke",
    command="python -m memjax.reproduce --scale=smoke --figures=all --workdir=repro",
    seconds=200.0,
    seeds="0, 1, 2",
    environment={"jax": "0.10.2", "devices": "1 x cpu"},
)


class Page(HTMLParser):
    """Checks that tags are nested, and collects what is in the page."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text = [], [], ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def _verdict(name, low, high):
    claim = Claim(
        name=name,
        figure="figure01",
        sentence="Sharpness |eigenvalue| rises & falls.",
        statistic="made-up difference",
        test=lambda _: over_seeds(np.linspace(low, high, 5)),
        primary=name == "first",
        threshold=0.1,
        why="made-up reason",
    )
    return judge_all([claim], {"figure01": pd.DataFrame()})[0], claim


@pytest.fixture
def figures(tmp_path):
    figure, axes = new_figure()
    axes[0, 0].plot(np.arange(5), np.arange(5))
    png, svg, table = (tmp_path / f"figure01.{kind}" for kind in ("png", "svg", "parquet"))
    save(figure, png, "png")
    save(figure, svg, "svg")
    pd.DataFrame({"a": [1]}).to_parquet(table)
    supported, claim = _verdict("first", 0.28, 0.32)
    contradicted, _ = _verdict("second", -0.32, -0.28)
    done = FigureResult(
        name="figure01",
        title="Figure 1: easy?",
        status="done",
        command="python -m memjax.reproduce --figures=1",
        seconds=12.0,
        table_path=table,
        png_path=png,
        svg_path=svg,
        caption="Digits, 3 seeds.",
        made="2026-11-26, on a machine",
        alt_text='A "rising" line.',
        claims=[supported, contradicted],
        reductions=["64 of the 4096 hidden units"],
    )
    third = dataclasses.replace(claim, name="third", primary=False)
    failed = FigureResult(
        name="figure02",
        title="Figure 2: patterns?",
        status="failed",
        command="python -m memjax.reproduce --figures=2",
        seconds=1.0,
        claims=[not_judged(third, "the figure failed")],
        error="no data set at <somewhere>",
    )
    return [done, failed]


def test_html_is_whole_and_needs_nothing_else(tmp_path, figures):
    write_report(tmp_path / "report", RUN, figures)
    text = (tmp_path / "report" / "report.html").read_text()
    page = Page(text)
    assert not any(tag in ("script", "link", "iframe") for tag, _ in page.tags)
    sources = [attrs["src"] for _, attrs in page.tags if "src" in attrs]
    assert len(sources) == 1
    assert all(source.startswith("data:image/") for source in sources)
    assert "http" not in text.replace("http://www.w3.org", "")
    assert "url(" not in text
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    links = [attrs["href"] for _, attrs in page.tags if "href" in attrs]
    assert len(set(ids)) == len(ids)
    assert {link.removeprefix("#") for link in links} <= set(ids)


@pytest.mark.parametrize("name", ["report.html", "report.md"])
def test_report_says_what_it_must(name, tmp_path, figures):
    write_report(tmp_path / "report", RUN, figures)
    text = (tmp_path / "report" / name).read_text()
    if name.endswith("html"):
        text = Page(text).text + " ".join(a.get("alt", "") for _, a in Page(text).tags)
    text = text.replace("\\|", "|")
    for words in (
        RUN.title,
        RUN.command,
        "3.33 min",
        "0, 1, 2",
        "0.10.2",
        "Figure 1: easy?",
        "Digits, 3 seeds.",
        'A "rising" line.',
        "Sharpness |eigenvalue| rises & falls.",
        "0.3 [0.28, 0.32], 5 seeds",
        "(Holm)",
        "(Benjamini-Hochberg)",
        "primary: first",
        "secondary: second",
        "1 of 1 primary claims decided",
        "docs/protocol.md",
        "2026-11-26, on a machine",
        "above 0.1; contradicted below -0.1",
        "made-up reason",
        "supported",
        "contradicted",
        "not resolved at this scale",
        "64 of the 4096 hidden units",
        "--figures=1",
        "This figure failed:",
        "no data set at <somewhere>",
        "12 s",
    ):
        assert words in text, words


def test_markdown_has_its_files_beside_it_and_whole_tables(tmp_path, figures):
    folder = tmp_path / "report"
    write_report(folder, RUN, figures)
    text = (folder / "report.md").read_text()
    assert "](figures/figure01.png)](figures/figure01.svg)" in text
    for kind in ("png", "svg", "parquet"):
        copied = (folder / "figures" / f"figure01.{kind}").read_bytes()
        assert copied == (tmp_path / f"figure01.{kind}").read_bytes()
    for block in text.split("\n\n"):
        if block.startswith("|"):
            widths = {line.replace("\\|", "").count("|") for line in block.splitlines()}
            assert len(widths) == 1


def test_claims_json_holds_every_verdict(tmp_path, figures):
    write_report(tmp_path / "report", RUN, figures)
    path = tmp_path / "report" / "claims.json"
    assert [claim["name"] for claim in read_claims(path)] == ["first", "second", "third"]
    written = json.loads(path.read_text())
    assert written["counts"] == dict(zip(VERDICTS, (1, 1, 0, 1, 0), strict=True))
    assert (written["protocol"], written["scale"]) == ("docs/protocol.md", "smoke")
    assert [claim["primary"] for claim in written["claims"]] == [True, False, False]


def test_same_input_gives_the_same_files(tmp_path, figures):
    for name in ("a", "b"):
        write_report(tmp_path / name, RUN, figures)
    for file in ("report.html", "report.md", "claims.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_failed_figure_without_a_reason_is_refused(figures):
    with pytest.raises(InputError, match="error"):
        dataclasses.replace(figures[1], error="")
    with pytest.raises(InputError, match="status"):
        dataclasses.replace(figures[1], status="skipped")
    with pytest.raises(InputError, match="alt text"):
        dataclasses.replace(figures[0], alt_text="")

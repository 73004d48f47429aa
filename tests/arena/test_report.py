"""The page: what it shows, that hostile text stays text, and that it loads nothing."""

import dataclasses
import json
import re
import shutil
import time
from html.parser import HTMLParser

import pytest
from plotly.offline import get_plotlyjs

from trimtab.arena.findings import Fact, Sample, read_findings
from trimtab.arena.report import render, write_report
from trimtab.arena.winrate import JudgeQuality
from trimtab.pages.page import visible
from trimtab.records import Message
from trimtab.statistics.intervals import wilson

ATTACK = (
    "</script><script>document.documentElement.dataset.broken = 1</script>"
    '<img src=x onerror="document.documentElement.dataset.broken = 1"><!-- </details></div> '
    "<a href='javascript:alert(1)'>&lt;b&gt; {{ 7 * 6 }} \"quoted\""
)
MARKER = "dataset.broken"


class Page(HTMLParser):
    """The page as a browser would take it apart: elements with attributes, and the text in each."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.texts, self.open = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in ("meta", "img", "link", "br", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data):
        self.texts.append((tuple(self.open), data))

    def shown(self, within="body"):
        """The words that a reader sees inside an element of this kind."""
        hidden = ("script", "style", "noscript")
        return "".join(
            data for path, data in self.texts if within in path and not any(tag in hidden for tag in path)
        )


def page(findings):
    return Page(render(findings, nonce="n0nce"))


def attacked(findings, text):
    """The same text at every place that takes one."""
    answers = tuple(
        dataclasses.replace(answer, text=text, ended=text, policy=f"{answer.policy} {text}")
        for answer in findings.samples[0].answers
    )
    policies = tuple(
        dataclasses.replace(policy, name=f"{policy.name} {text}") for policy in findings.policies
    )
    matches = tuple(
        dataclasses.replace(match, left=f"{match.left} {text}", right=f"{match.right} {text}")
        for match in findings.matches
    )
    return dataclasses.replace(
        findings,
        title=text,
        policies=policies,
        matches=matches,
        judge=dataclasses.replace(findings.judge, name=text),
        samples=(
            Sample(prompt=(Message("user", text),), answers=answers, preferred=text),
            Sample(prompt=text, answers=answers),
        ),
        costs=tuple(dataclasses.replace(cost, run=text, device=text) for cost in findings.costs),
        curves=tuple(dataclasses.replace(curve, metric=text, stage=text) for curve in findings.curves),
        facts=(Fact(group=text, name=text, value=text),),
        caveats=(text,),
    )


def without_plotly(text):
    source = get_plotlyjs()
    assert text.count(source) == 1
    return text.replace(source, "")


def test_the_page_stands_by_itself(findings):
    own = without_plotly(render(findings, nonce="n0nce"))
    assert "http:" not in own and "https:" not in own and "url(" not in own and "@import" not in own
    loading = {"src", "href", "srcset", "action", "data", "poster", "xlink:href"}
    tags = [tag for tag, attributes in page(findings).elements if loading & set(attributes)]
    assert tags == []
    policy = next(a["content"] for tag, a in page(findings).elements if "http-equiv" in a)
    assert policy.startswith("default-src 'none'; script-src 'nonce-n0nce';") and "unsafe-eval" not in policy


def test_the_headline_comes_first_and_the_judge_next(findings):
    shown = re.sub(r"\s+", " ", page(findings).shown())
    start = f" {findings.title} {findings.headline} {findings.judge.sentence} "
    assert shown.startswith(re.sub(r"\s+", " ", start))


def test_the_numbers_shown_are_the_numbers_given(findings):
    cells = [
        " ".join(row.split()) for row in re.findall(r"<tr>(.*?)</tr>", render(findings, nonce="n"), re.S)
    ]
    rows = [re.sub(r"\s+", " ", Page(f"<body>{cell}</body>").shown()).strip() for cell in cells]
    assert "DPO PPO 59.5 % [52.7, 66.3] 57.5 % [50.5, 64.5] 117 4 79 0.024 DPO preferred" in rows
    assert (
        "PPO 200 0.29 [0.20, 0.37] 0.85 [0.78, 0.92] 6.42 [6.20, 6.63] 58.3 [55.4, 61.2] 46.0 % [39.2, 52.9] "
        "4.1 % [2.9, 5.3] 0.62"
    ) in rows
    assert "PPO 53.0 % [46.2, 59.8] 40.5 % [33.7, 47.3]" in rows
    assert "DPO 1 0.22 [0.12, 0.32]" in rows
    assert "PPO 1,700 850 250" in rows
    assert "PPO sft + reward + ppo 1 h 45 min 3 h 24 min 5.12 GB 843,072 32,768" in rows
    assert "measuring runs/test-measuring 48.3 s 1 min 31 s 1.90 GB 0 38,400 cpu, 2 cores" in rows


def test_a_judge_that_cannot_tell_crowns_nobody(findings):
    coin = JudgeQuality(name="coin", accuracy=wilson(130, 250), shorter_wins=wilson(144, 250))
    shown = page(dataclasses.replace(findings, judge=coin)).shown()
    assert "No winner named between DPO and PPO: this judge cannot tell" in shown
    assert "beats" not in shown and "this judge would prefer" not in shown
    assert "reaches down to" not in page(findings).shown()


def test_every_picture_has_its_words_and_its_figure(findings):
    elements = page(findings).elements
    pictures = [attributes for tag, attributes in elements if "data-figure" in attributes]
    figures = json.loads(re.search(r'id="figures">(.*?)</script>', render(findings, nonce="n"), re.S)[1])
    assert sorted(attributes["data-figure"] for attributes in pictures) == sorted(figures)
    assert all(attributes["role"] == "img" and len(attributes["aria-label"]) > 20 for attributes in pictures)
    assert len(pictures) == 14


def test_tables_have_heads(findings):
    elements = page(findings).elements
    assert sum(tag == "table" for tag, _ in elements) == 8
    assert {attributes.get("scope") for tag, attributes in elements if tag == "th"} == {"col", "row"}
    named = {attributes["aria-labelledby"] for _, attributes in elements if "aria-labelledby" in attributes}
    assert named <= {attributes.get("id") for _, attributes in elements}


def test_samples_are_closed_and_nowhere_else(findings):
    taken = page(findings)
    details = [attributes for tag, attributes in taken.elements if tag == "details"]
    assert [one["data-verdict"] for one in details] == ["DPO", "PPO", "tie"]
    assert all("open" not in one for one in details)
    inside = taken.shown("details")
    for text in ("Test question 2", "Ask the town's mediator", "You are a helpful assistant."):
        assert text in inside
        assert taken.shown().count(text) == inside.count(text)
        assert text not in taken.shown("summary")


def test_hostile_text_is_text_everywhere(findings):
    plain, taken = page(findings), page(attacked(findings, ATTACK))
    assert {tag for tag, _ in taken.elements} == {tag for tag, _ in plain.elements}
    scripts = [attributes for tag, attributes in taken.elements if tag == "script"]
    assert scripts == [attributes for tag, attributes in plain.elements if tag == "script"]
    assert not any(name.startswith("on") for _, attributes in taken.elements for name in attributes)
    assert not any("script" in path and MARKER in data and '{"' not in data for path, data in taken.texts)
    assert taken.shown().count(ATTACK) > 20


def test_what_hides_or_reorders_text_is_shown_as_a_sign():
    assert (
        visible("a\x00b\x1b[0m\u202ec\u2066d\x7f\x85") == "a\u2400b\u241b[0m⟦U+202E⟧c⟦U+2066⟧d\u2421⟦U+0085⟧"
    )
    assert visible("one\r\ntwo\tthree\n\ud800 שלום\u200f") == "one\ntwo\tthree\n\ufffd שלום\u200f"


def test_broken_characters_reach_the_page_as_signs(findings):
    text = render(attacked(findings, "x\x00y\u202ez\ud800 \u0627"), nonce="n")
    own = without_plotly(text)
    assert "x\u2400y⟦U+202E⟧z\ufffd \u0627" in own
    assert not set("\x00\u202e\ud800") & set(own)


def test_a_long_line_is_whole(findings):
    line = "w" * 100_000
    assert page(attacked(findings, line)).shown("details").count(line) >= 6


def test_a_report_needs_neither_samples_nor_costs(findings):
    bare = dataclasses.replace(
        findings,
        samples=(), costs=(), curves=(), facts=(), cards=(), ranking=None, human=None,
        policies=tuple(dataclasses.replace(policy, proxy_reward=None) for policy in findings.policies),
    )  # fmt: skip
    shown = page(bare).shown()
    assert "Who was preferred" in shown and "Limits" in shown
    for heading in (
        "What each method cost",
        "How training went",
        "Answers side by side",
        "Settings and lineage",
        "How far the reward models can be trusted",
    ):
        assert heading in page(findings).shown() and heading not in shown


def test_the_files_are_written_and_only_they(findings, tmp_path):
    path = write_report(tmp_path / "report.html", findings)
    assert path == tmp_path / "report.html"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["report.html", "report.json", "report.md"]
    assert read_findings(tmp_path / "report.json") == findings
    first = path.read_bytes()
    assert 4_000_000 < len(first) < 6_000_000
    assert write_report(path, findings).read_bytes() == first


@pytest.fixture(scope="module")
def browser():
    """Chromium, as the system has it."""
    sync_api = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs chromium")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()


def opened(browser, path):
    """The page, and what its console said."""
    tab, said = browser.new_page(viewport={"width": 1440, "height": 900}), []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("request", lambda request: said.append(request.url) if request.url != path.as_uri() else None)
    tab.goto(path.as_uri())
    return tab, said


@pytest.mark.slow
def test_in_a_browser_the_pictures_appear_and_the_attack_does_not_run(findings, tmp_path, browser):
    path = write_report(tmp_path / "report.html", attacked(findings, ATTACK))
    tab, said = opened(browser, path)
    pictures = tab.locator("[data-figure]")
    for index in range(pictures.count()):
        pictures.nth(index).scroll_into_view_if_needed()
    tab.wait_for_function("document.querySelectorAll('.js-plotly-plot').length == 14")
    tab.locator("details").first.click()
    assert tab.evaluate("document.documentElement.dataset.broken") is None
    assert tab.locator("main a, main img, main iframe, main svg a").count() == 0
    assert tab.locator("details .text").first.inner_text() == ATTACK
    assert said == []


@pytest.mark.slow
def test_in_a_browser_a_line_of_a_megabyte_is_text(findings, tmp_path, browser):
    line = "<b>" + "w" * 1_000_000
    samples = (dataclasses.replace(findings.samples[0], prompt=line),)
    path = write_report(tmp_path / "report.html", dataclasses.replace(findings, samples=samples))
    tab, said = opened(browser, path)
    tab.locator("details").first.click()
    assert tab.locator("details .text").first.inner_text() == line
    width = tab.evaluate("document.documentElement.scrollWidth")
    assert width == 1440 and said == []


@pytest.mark.slow
def test_in_a_browser_two_thousand_samples_open_at_once_and_can_be_searched(findings, tmp_path, browser):
    samples = tuple(
        dataclasses.replace(findings.samples[index % 3], prompt=f"prompt number {index}")
        for index in range(2000)
    )
    path = write_report(tmp_path / "report.html", dataclasses.replace(findings, samples=samples))
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        tab, said = opened(browser, path)
        seconds.append(time.perf_counter() - began)
    assert min(seconds) < 2, seconds
    tab.fill("#words", "Number 1234")
    assert tab.locator("#count").inner_text() == "1 of 2000 prompts"
    assert tab.locator(".sample:visible summary").inner_text().startswith("Prompt 1235")
    tab.fill("#words", "")
    tab.select_option("#verdict", "tie")
    assert tab.locator("#count").inner_text() == "666 of 2000 prompts"
    assert said == []

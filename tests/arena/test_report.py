"""The page: what it shows, that hostile text stays text, and that it loads nothing."""

import dataclasses
import json
import re
import shutil
import subprocess
import time
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from plotly.offline import get_plotlyjs

from trimtab.arena.findings import Fact, Sample, read_findings
from trimtab.arena.report import render, write_report
from trimtab.arena.winrate import JudgeQuality
from trimtab.hidden import visible
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

    def shown_without_scripts(self):
        """The words for a reader without JavaScript."""
        return "".join(data for path, data in self.texts if "noscript" in path).strip()


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
        "4.1 % [2.9, 5.3] 0.62 runs/test-ppo 3"
    ) in rows
    assert "PPO 53.0 % [46.2, 59.8] 40.5 % [33.7, 47.3]" in rows
    assert "DPO 1 0.22 [0.12, 0.32]" in rows
    assert "PPO 1,700 DPO" in rows
    assert "PPO sft + reward + ppo 1 h 45 min 3 h 24 min 5.12 GB 843,072 32,768 cpu, 2 cores" in rows
    assert "measuring runs/test-measuring 48.3 s 1 min 31 s 1.90 GB 0 38,400 cpu, 2 cores" in rows


def test_a_judge_that_cannot_tell_crowns_nobody(findings):
    coin = JudgeQuality(
        name="coin", accuracy=wilson(130, 250), rule=wilson(144, 250), rule_name="shorter wins"
    )
    shown = page(dataclasses.replace(findings, judge=coin)).shown()
    assert "No winner named between DPO and PPO: this judge cannot tell" in shown
    assert "beats" not in shown and "this judge would prefer" not in shown
    doubt = "does not lie above 50 %, a coin toss, with its whole interval"
    assert doubt in shown and doubt not in page(findings).shown()
    wrong = JudgeQuality(
        name="wrong", accuracy=wilson(60, 250), rule=wilson(144, 250), rule_name="shorter wins"
    )
    assert doubt in page(dataclasses.replace(findings, judge=wrong)).shown()


def test_every_picture_has_its_words_and_its_figure(findings):
    elements = page(findings).elements
    pictures = [attributes for tag, attributes in elements if "data-figure" in attributes]
    figures = json.loads(re.search(r'id="figures">(.*?)</script>', render(findings, nonce="n"), re.S)[1])
    assert sorted(attributes["data-figure"] for attributes in pictures) == sorted(figures)
    assert all(attributes["role"] == "img" and len(attributes["aria-label"]) > 20 for attributes in pictures)
    assert len(pictures) == 14


def test_tables_have_heads(findings):
    elements = page(findings).elements
    assert sum(tag == "table" for tag, _ in elements) == 9
    assert {attributes.get("scope") for tag, attributes in elements if tag == "th"} == {"col", "row"}
    named = {attributes["aria-labelledby"] for _, attributes in elements if "aria-labelledby" in attributes}
    assert named <= {attributes.get("id") for _, attributes in elements}


def test_samples_are_closed_and_nowhere_else(findings):
    taken = page(findings)
    details = [attributes for tag, attributes in taken.elements if tag == "details"]
    samples = [one["data-verdict"] for one in details if one["class"] == "sample"]
    assert samples == ["said DPO", "said PPO", "said tie"]
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


HIDING = "x\x00y\u202ez\ud800 \u0627 \u200b\u200f\U000e0041"
SHOWN = "x\u2400y⟦U+202E⟧z\ufffd \u0627 ⟦U+200B⟧⟦U+200F⟧⟦U+E0041⟧"


def test_what_hides_or_reorders_text_reaches_the_page_as_a_sign(findings):
    own = without_plotly(render(attacked(findings, HIDING), nonce="n"))
    assert SHOWN in own and not set(visible(HIDING)) ^ set(SHOWN)
    assert not set("\x00\u202e\ud800\u200b\u200f\U000e0041") & set(own)


def strings(value):
    """All texts in a figure."""
    if isinstance(value, dict):
        return [text for one in value.values() for text in strings(one)]
    if isinstance(value, list):
        return [text for one in value for text in strings(one)]
    return [value] if isinstance(value, str) else []


def test_what_hides_or_reorders_text_reaches_the_pictures_as_a_sign(findings):
    said = re.search(r'id="figures">(.*?)</script>', render(attacked(findings, HIDING), nonce="n"), re.S)[
        1
    ]  # in JSON, where hidden characters are escaped
    texts = strings(json.loads(said))
    assert sum(SHOWN in text for text in texts) >= 9  # in the hover of three matches and of six marks
    assert not set("\x00\u202e\ud800\u200b\u200f\U000e0041") & set("".join(texts))


def options(findings):
    """(value, words) of each choice of verdict."""
    return re.findall(r'<option value="([^"]*)">(.*?)</option>', render(findings, nonce="n"))


def test_the_verdict_filter_offers_what_there_is(findings):
    first, *others = findings.samples
    assert ("none", "no verdict") not in options(findings)
    unjudged = dataclasses.replace(first, preferred="", gap=None)
    some = dataclasses.replace(findings, samples=(unjudged, *others))
    assert options(some) == [
        ("", "all"), ("said PPO", "PPO preferred"), ("said tie", "tie"), ("none", "no verdict"),
    ]  # fmt: skip
    verdicts = [one["data-verdict"] for _, one in page(some).elements if "data-verdict" in one]
    assert verdicts == ["none", "said PPO", "said tie"]


@pytest.mark.parametrize("name", ["none", "no verdict", "all"])
def test_no_policy_is_taken_for_another_choice(findings, name):
    answers = tuple(
        dataclasses.replace(answer, policy=name if answer.policy == "SFT" else answer.policy)
        for answer in findings.samples[0].answers
    )
    samples = (
        dataclasses.replace(findings.samples[0], answers=answers, preferred=name),
        dataclasses.replace(findings.samples[0], answers=answers, preferred=""),
    )
    policies = (dataclasses.replace(findings.policies[0], name=name), *findings.policies[1:])
    found = options(
        dataclasses.replace(findings, policies=policies, samples=samples, matches=findings.matches[:1])
    )
    assert found == [("", "all"), (f"said {name}", f"{name} preferred"), ("none", "no verdict")]


def test_headings_leave_no_level_out(findings):
    levels = [int(tag[1]) for tag, _ in page(findings).elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and all(after <= before + 1 for before, after in pairwise(levels))


def test_a_summary_reads_as_a_sentence(findings):
    summaries = re.findall(r"<summary>(Prompt.*?)</summary>", render(findings, nonce="n"), re.S)
    said = [re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", one)) for one in summaries]
    assert said[0] == "Prompt 1 DPO preferred · 1.50 apart" and said[2].startswith("Prompt 3 tie ·")


def words_explained(findings):
    box = render(findings, nonce="n").split('<details class="glossary">')[1].split("</details>")[0]
    return re.findall(r"<dt>(.*?)</dt>", box)


def test_words_are_explained_where_they_are_used(findings):
    always = ["judge", "reference", "KL, nats", "win rate, interval", "repetition", "distinct-2"]
    explained = words_explained(findings)
    assert set(explained) >= {*always, "SFT", "PPO", "DPO", "proxy", "Bradley-Terry strength"}
    assert "sign-flip test" not in explained and "p, adjusted (Holm)" in explained
    bare = dataclasses.replace(
        findings,
        ranking=None,
        policies=tuple(
            dataclasses.replace(policy, proxy_reward=None, method="model") for policy in findings.policies
        ),
    )
    assert words_explained(bare) == [*always, "p, adjusted (Holm)"]


def test_nothing_is_said_of_a_proxy_that_there_is_not(findings):
    policies = tuple(dataclasses.replace(policy, proxy_reward=None) for policy in findings.policies)
    without = page(dataclasses.replace(findings, policies=policies)).shown()
    assert "The proxy is PPO’s own reward model" in page(findings).shown()
    assert "The proxy is" not in without and "Brackets hold intervals" in without


def test_the_order_of_the_samples_is_explained_where_it_has_a_measure(findings):
    some = tuple(dataclasses.replace(sample, gap=None) for sample in findings.samples)
    order = "The biggest disagreements come first"
    assert order in page(findings).shown()
    assert order not in page(dataclasses.replace(findings, samples=some)).shown()
    assert order in page(dataclasses.replace(findings, samples=(*some, findings.samples[0]))).shown()


def test_without_scripts_the_page_says_where_the_numbers_are(findings):
    def said(some):
        return re.sub(r"\s+", " ", page(some).shown_without_scripts())

    curves = "those of the learning curves and calibration are in the JSON file beside this page."
    assert curves in said(findings)
    bare = dataclasses.replace(findings, curves=(), cards=())
    assert said(bare) == "The pictures need JavaScript. Their numbers are in the tables."


def test_usual_ranges_come_with_their_meaning_and_source(findings):
    shown = page(findings).shown()
    assert (
        "Outside it: below 0 the rejected responses gained on the chosen ones. Source: docs/math.md" in shown
    )


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
    assert "Who was preferred" in shown and "Limits" in shown and "PPO’s own reward model" not in shown
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


def opened(chromium, path, **options):
    """The page, and what its console said."""
    tab, said = chromium.new_page(**{"viewport": {"width": 1440, "height": 900}, **options}), []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("request", lambda request: said.append(request.url) if request.url != path.as_uri() else None)
    tab.goto(path.as_uri())
    return tab, said


@pytest.mark.slow
def test_in_a_browser_the_pictures_appear_and_the_attack_does_not_run(findings, tmp_path, chromium):
    path = write_report(tmp_path / "report.html", attacked(findings, ATTACK))
    tab, said = opened(chromium, path)
    pictures = tab.locator("[data-figure]")
    for index in range(pictures.count()):
        pictures.nth(index).scroll_into_view_if_needed()
    tab.wait_for_function("document.querySelectorAll('.js-plotly-plot').length == 14")
    tab.locator(".sample").first.click()
    assert tab.evaluate("document.documentElement.dataset.broken") is None
    assert tab.locator("main a, main img, main iframe, main svg a").count() == 0
    assert tab.locator(".sample .text").first.inner_text() == ATTACK
    assert said == []


@pytest.mark.slow
def test_in_a_browser_a_line_of_a_megabyte_is_text(findings, tmp_path, chromium):
    line = "<b>" + "w" * 1_000_000
    samples = (dataclasses.replace(findings.samples[0], prompt=line),)
    path = write_report(tmp_path / "report.html", dataclasses.replace(findings, samples=samples))
    tab, said = opened(chromium, path)
    tab.locator(".sample").first.click()
    assert tab.locator(".sample .text").first.inner_text() == line
    width = tab.evaluate("document.documentElement.scrollWidth")
    assert width == 1440 and said == []


@pytest.mark.slow
def test_in_a_browser_two_thousand_samples_open_at_once_and_can_be_searched(findings, tmp_path, chromium):
    samples = tuple(
        dataclasses.replace(findings.samples[index % 3], prompt=f"prompt number {index}")
        for index in range(2000)
    )
    path = write_report(tmp_path / "report.html", dataclasses.replace(findings, samples=samples))
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        tab, said = opened(chromium, path)
        seconds.append(time.perf_counter() - began)
    assert min(seconds) < 2, seconds
    tab.fill("#words", "Number 1234")
    assert tab.locator("#count").inner_text() == "1 of 2000 prompts"
    assert tab.locator(".sample:visible summary").inner_text().startswith("Prompt 1235")
    tab.fill("#words", "")
    tab.select_option("#verdict", "said tie")
    assert tab.locator("#count").inner_text() == "666 of 2000 prompts"
    assert said == []


@pytest.mark.slow
def test_in_a_browser_the_filter_searches_prompts_and_answers_and_nothing_else(findings, tmp_path, chromium):
    first, *others = findings.samples
    samples = (dataclasses.replace(first, preferred="", gap=None), *others)
    path = write_report(tmp_path / "report.html", dataclasses.replace(findings, samples=samples))
    tab, said = opened(chromium, path)

    def found(words, verdict=""):
        tab.select_option("#verdict", verdict)
        tab.fill("#words", words)
        return tab.locator("#count").inner_text()

    assert found("MEDIATOR") == found(" barking ") == found("") == "3 of 3 prompts"
    assert found("Test question 1") == "1 of 3 prompts"
    for label in ("judge", "user", "tokens", "ended", "nats", "preferred", "apart", "Prompt 1"):
        assert found(label) == "0 of 3 prompts", label
    assert found("", "none") == found("", "said PPO") == found("", "said tie") == "1 of 3 prompts"
    assert found("question 1", "said tie") == "0 of 3 prompts"
    assert said == []


LONG = {
    "DPO": "dpo-beta-0.05-lr-5e-7-seed-17-epoch-2",
    "PPO": "ppo-kl-0.05-adaptive-seed-17-512-episodes",
    "SFT": "sft_on_chosen_responses_only_no_hyphen_here",
}


def renamed(findings, names):
    """The same findings with other names of policies, which are those of their runs too."""
    return dataclasses.replace(
        findings,
        policies=tuple(
            dataclasses.replace(policy, name=names[policy.name], run=f"runs/{names[policy.name]}")
            for policy in findings.policies
        ),
        matches=tuple(
            dataclasses.replace(match, left=names[match.left], right=names[match.right])
            for match in findings.matches
        ),
        ranking=dataclasses.replace(
            findings.ranking, names=tuple(names[name] for name in findings.ranking.names)
        ),
        samples=tuple(
            dataclasses.replace(
                sample,
                preferred=names.get(sample.preferred, sample.preferred),
                answers=tuple(
                    dataclasses.replace(answer, policy=names[answer.policy]) for answer in sample.answers
                ),
            )
            for sample in findings.samples
        ),
    )


def drawn(tab):
    """Wait until all pictures are there."""
    pictures = tab.locator("[data-figure]")
    for index in range(pictures.count()):
        pictures.nth(index).scroll_into_view_if_needed()
    tab.wait_for_function("document.querySelectorAll('.js-plotly-plot').length == 14")


@pytest.mark.slow
@pytest.mark.parametrize("names", [LONG, {name: name for name in LONG}], ids=["long", "short"])
def test_in_a_browser_a_phone_shows_names_and_numbers(findings, tmp_path, chromium, names):
    path = write_report(tmp_path / "report.html", renamed(findings, names))
    tab, said = opened(chromium, path, viewport={"width": 400, "height": 800})
    tab.evaluate("document.querySelectorAll('details').forEach((box) => { box.open = true; })")
    drawn(tab)
    assert tab.evaluate("document.documentElement.scrollWidth") == 400
    first = tab.evaluate(
        "[...document.querySelectorAll('.scroll')].map((box) => [box.querySelector('tbody th')"
        ".getBoundingClientRect().width, box.clientWidth, "
        "getComputedStyle(box.querySelector('tbody th')).position])"
    )
    assert len(first) == 9 and all(cell < 0.6 * box and how == "static" for cell, box, how in first)
    # Each number is reached within its box: whole, on one line, and nothing lies over it.
    covered = tab.evaluate(
        """() => [...document.querySelectorAll("td.number")].filter((cell) => {
          cell.scrollIntoView({ block: "center", inline: "end" });
          const words = document.createRange();
          words.selectNodeContents(cell);
          const at = words.getBoundingClientRect();
          const top = document.elementFromPoint(at.x + at.width / 2, at.y + 4);
          return cell.textContent.trim() && !(cell.contains(top) && at.x >= 0 && at.right <= 400);
        }).map((cell) => cell.textContent)"""
    )
    assert covered == []
    room = tab.evaluate(
        "[...document.querySelectorAll('.js-plotly-plot')].map((plot) => plot._fullLayout._size.w)"
    )
    assert min(room) > 150
    assert said == []


CONTRAST = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const painted = (colours) => {
    canvas.clearRect(0, 0, 1, 1);
    for (const colour of colours) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const grounds = (element) => element
    ? [...grounds(element.parentElement), getComputedStyle(element).backgroundColor] : ["white"];
  const inside = (element) => [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
  const tried = document.querySelectorAll("main *:not(script):not(noscript):not(svg *):not(option)");
  const shown = [...tried].filter((element) => inside(element) && element.getClientRects().length);
  return shown.map((element) => [
    element.tagName + "." + element.className,
    painted([...grounds(element), getComputedStyle(element).color]),
    painted(grounds(element)),
  ]);
}"""


def contrast(one, other):
    """As WCAG 2 defines it."""

    def light(colour):
        parts = [c / 255 for c in colour]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    high, low = sorted((light(one), light(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser_words_stand_out_from_their_ground(findings, tmp_path, chromium, scheme):
    path = write_report(tmp_path / "report.html", findings)
    tab, _ = opened(chromium, path, color_scheme=scheme)
    tab.evaluate("document.querySelectorAll('details').forEach((box) => { box.open = true; })")
    found = tab.evaluate(CONTRAST)
    weak = {where: contrast(ink, ground) for where, ink, ground in found if contrast(ink, ground) < 4.5}
    assert not weak
    seen = {where for where, _, _ in found}
    expected = "P. P.notice TH. TD.number SPAN.range DIV.text SPAN.mark P.remark FIGCAPTION."
    assert seen >= set(expected.split())
    assert (tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(21, 24, 27)") == (
        scheme == "dark"
    )


@pytest.mark.slow
def test_in_a_browser_paper_holds_prompts_and_answers_and_no_controls(findings, tmp_path, chromium):
    reader = shutil.which("pdftotext")
    if reader is None:
        pytest.skip("needs pdftotext")
    path = write_report(tmp_path / "report.html", findings)
    tab, said = opened(chromium, path)
    tab.locator(".sample summary").nth(1).click()
    tab.pdf(path=tmp_path / "report.pdf", format="A4")
    told = subprocess.run([reader, tmp_path / "report.pdf", "-"], capture_output=True, text=True, check=True)
    text = " ".join(told.stdout.split())
    for words in (
        "Test question 0",
        "Test question 1",
        "Test question 2",
        "What else is there?",
        "SFT",
        "Holm",
    ):
        assert words in text
    assert text.count("Ask the town's mediator.") == text.count("You are a helpful assistant.") == 3
    controls = text.split("Answers side by side")[1].split("Prompt 1")[0]
    assert "Verdict" not in controls and "Contains" not in controls and "3 prompts" in controls
    # What was opened for paper is closed again, and what the reader had opened stays open.
    assert tab.evaluate("[...document.querySelectorAll('details')].map((box) => box.open)") == [
        False, False, True, False,
    ]  # fmt: skip
    assert said == []


@pytest.mark.slow
def test_in_a_browser_the_keyboard_reaches_everything(findings, tmp_path, chromium):
    tab, said = opened(chromium, write_report(tmp_path / "report.html", findings))
    reached = []
    for _ in range(60):
        tab.keyboard.press("Tab")
        at = tab.evaluate(
            "(({ tagName, id, className }) => [tagName, id || className])(document.activeElement)"
        )
        if at == ["BODY", ""] and reached:
            break
        reached.append(tuple(at))
    assert reached.count(("SUMMARY", "")) == 4 and reached.count(("DIV", "scroll")) == 9
    assert reached.index(("SELECT", "verdict")) < reached.index(("INPUT", "words")) < len(reached) - 3
    tab.locator(".sample summary").first.focus()
    assert tab.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    tab.keyboard.press("Enter")
    assert tab.locator(".sample").first.get_attribute("open") is not None
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.className") == "text"
    assert said == []


@pytest.mark.slow
def test_in_a_browser_a_summary_has_a_name_to_read_out(findings, tmp_path, chromium):
    tab, _ = opened(chromium, write_report(tmp_path / "report.html", findings))
    said = tab.locator(".sample").first.aria_snapshot()
    assert "Prompt 1 DPO preferred · 1.50 apart" in said

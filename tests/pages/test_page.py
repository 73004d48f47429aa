"""What all pages share: cells, remarks, and texts inside pictures."""

import re
from importlib.resources import files

import plotly.graph_objects as go
import pytest
from jinja2 import Environment, PackageLoader

from trimtab.pages.page import Picture, plotly_text


@pytest.fixture(scope="module")
def macros():
    environment = Environment(
        loader=PackageLoader("trimtab", ""), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("pages/macros.html").module


def cells(table):
    """(attributes, text) of each cell, the head's first."""
    found = re.findall(r"<t[hd]([^>]*)>(.*?)</t[hd]>", str(table), re.S)
    return [(attributes.strip(), re.sub(r"<[^>]*>", "", text).strip()) for attributes, text in found]


def test_long_names_may_wrap_and_numbers_may_not(macros):
    name, note = "policy-" * 6, "a sentence of more than a few words"
    rows = [("policy", "rate", "tokens trained", "note"), (name, "59.5 % [52.7, 66.3]", "843,072", note)]
    assert cells(macros.table(rows, "key", "caption", ["note"]))[4:] == [
        ('scope="row" class="long"', name),
        ('class="number interval"', "59.5 % [52.7, 66.3]"),
        ('class="number"', "843,072"),
        ('class="long"', note),
    ]


def test_only_an_estimate_with_its_interval_is_taken_apart(macros):
    assert "range" not in str(macros.cell("[1, 2]")) and str(macros.cell("a [b] c")) == "a [b] c"
    assert '<span class="range">[0.1, 0.3]</span>' in str(macros.cell("0.2 [0.1, 0.3]"))


def test_a_remark_stands_under_its_picture(macros):
    picture = Picture(key="k", title="t", label="l", figure={"layout": {"height": 10}}, remark="a < b")
    drawn = str(macros.plot(picture))
    assert drawn.index('class="plot"') < drawn.index('<p class="remark">a &lt; b</p>')


def test_texts_in_pictures_are_neither_markup_nor_hidden():
    assert plotly_text("<b>x</b> & \u202etxt\u200b") == "&lt;b&gt;x&lt;/b&gt; &amp; ⟦U+202E⟧txt⟦U+200B⟧"
    go.Figure(layout={"title": {"text": plotly_text("<b>")}})


@pytest.mark.parametrize("page", ["arena/report", "evaluation/reward", "pipeline/verification"])
def test_each_page_says_where_the_numbers_of_its_pictures_are(page):
    source = files("trimtab").joinpath(f"{page}.html").read_text(encoding="utf-8")
    assert source.count("{% block without_pictures %}") == 1

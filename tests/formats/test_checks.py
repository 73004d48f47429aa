"""One broken file with every defect, the lengths, and the pull of length."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from trimtab.formats import check
from trimtab.formats.rows import EFFECTS

EXAMPLES = Path(__file__).parents[2] / "examples"
DIALOGUE = "\n\nHuman: Name a prime.\n\nAssistant:"

BROKEN = [  # line, kind, field, found, fix
    ({"prompt": "fine", "chosen": "yes", "rejected": "no"}, None, "", "", ""),
    (b'{"prompt": "p", "chosen": "yes",}', "bad JSON", "", '\'p", "chosen": "yes",}\'',
     "write one JSON object a line"),
    (b"[1, 2]", "bad JSON", "", "[1, 2]", "jq -c"),
    ('{"prompt": "\xe9"}'.encode("latin-1"), "wrong encoding", "", "byte 0xe9 at position 13", "UTF-8"),
    ({"prompt": "p", "chosen": "yes", "rejcted": "no"}, "missing field", "rejected",
     "the fields prompt, chosen, rejcted", "rename `rejcted` to `rejected`"),
    ({"prompt": "p", "chosen": 7, "rejected": "no"}, "wrong value", "chosen", "7", "write it in quotes"),
    ({"prompt": " ", "chosen": "yes", "rejected": "no"}, "empty prompt", "prompt", "' '", "drop the row"),
    ({"prompt": "p", "chosen": "", "rejected": "no"}, "empty reply", "chosen", "''", "drop the row"),
    ({"prompt": "p", "chosen": "no", "rejected": "no"}, "identical pair", "rejected",
     "'no' on both sides", "record a tie"),
    ({"chosen": "yes", "rejected": "no"}, "differing prompts", "rejected",
     "'no' where `chosen` has 'yes'", "the same prompt"),
    ({"chosen": DIALOGUE + " 7", "rejected": DIALOGUE + " Human: why?"}, "role marker", "rejected",
     "' Human: why?'", "take the marker out"),
    ({"prompt": "long", "chosen": "w" * 400, "rejected": "no"}, "too long", "chosen",
     "about 100 tokens", "raise max_response"),
]  # fmt: skip


@pytest.fixture
def broken(tmp_path):
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row, *_ in BROKEN]
    (tmp_path / "broken.jsonl").write_bytes(b"\n".join(lines))
    return tmp_path / "broken.jsonl"


def test_every_defect_is_found_where_it_is(broken):
    report = check([broken], count_tokens=None, max_prompt=99, max_response=99)
    expected = [
        (line, kind, field, found) for line, (_, kind, field, found, _) in enumerate(BROKEN, 1) if kind
    ]
    assert [(each.line, each.kind, each.field, each.found) for each in report.defects] == expected
    assert {each.file for each in report.defects} == {str(broken)}
    fixes = [fix for _, kind, _, _, fix in BROKEN if kind]
    assert [
        (fix, each.fix) for fix, each in zip(fixes, report.defects, strict=True) if fix not in each.fix
    ] == []
    assert report.counts["bad JSON"] == 2 and report.failed
    elsewhere = {
        "broken file",
        "no rows",
        "prompt leakage",
        "no winner",
    }  # not of one row
    assert set(report.counts) | elsewhere == set(EFFECTS)


def test_a_warning_is_no_failure(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"prompt": "abcdefgh", "completion": "abcd"}\n')
    report = check([tmp_path / "x.jsonl"], count_tokens=len, max_prompt=7, max_response=3)
    assert [(defect.field, defect.found) for defect in report.defects] == [
        ("prompt", "8 tokens"),
        ("response", "4 tokens"),
    ]
    assert not report.failed
    assert check([tmp_path / "x.jsonl"], count_tokens=len, max_prompt=8, max_response=4).defects == []


def test_leaks_between_any_two_files(tmp_path):
    for name, prompts in (("a", "xy"), ("b", "zx"), ("c", "zw")):
        text = "".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts)
        (tmp_path / f"{name}.jsonl").write_text(text)
    report = check(
        [tmp_path / f"{name}.jsonl" for name in "abc"], count_tokens=None, max_prompt=9, max_response=9
    )
    places = [(Path(leak.where).name, leak.what.rpartition("/")[2]) for leak in report.leaks]
    assert places == [("b.jsonl:2", "a.jsonl:1"), ("c.jsonl:1", "b.jsonl:1")]
    assert report.failed


def test_lengths_and_the_pull_of_length(tmp_path):
    replies = [("a", "bb"), ("aa", "bbbb"), ("aaa", "b"), ("a b", "bbb")]
    rows = [{"prompt": "p" * 10, "chosen": chosen, "rejected": rejected} for chosen, rejected in replies]
    rows.append({"prompt": "p", "a": "long " * 50, "b": "x"})  # unjudged: pulls nothing
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (file,) = check(
        [tmp_path / "x.jsonl"], count_tokens=lambda text: len(text.split()), max_prompt=99, max_response=99
    ).files
    assert file.records == {"comparisons": 5}
    bias = file.length_bias
    assert (bias.pairs, bias.shorter, bias.longer, bias.equal) == (4, 0.5, 0.25, 0.25)
    chosen = file.characters["chosen"]
    assert (chosen.count, chosen.minimum, chosen.median, chosen.mean, chosen.maximum) == (4, 1, 2.5, 2.25, 3)
    assert chosen.p95 == pytest.approx(3.0)
    assert file.tokens["chosen"].maximum == 2 and file.tokens["prompt"].mean == 1


def test_the_examples_are_sound():
    hh = EXAMPLES / "hh-harmless"
    demonstrations = EXAMPLES / "demonstrations" / "demonstrations.jsonl"
    report = check(
        [hh / "comparisons.jsonl.gz", hh / "held-out.jsonl.gz", demonstrations],
        count_tokens=None,
        max_prompt=500,
        max_response=500,
    )
    assert report.defects == []
    assert [file.records for file in report.files] == [
        {"comparisons": 320},
        {"comparisons": 64},
        {"demonstrations": 60},
    ]


def test_formats_loads_nothing_heavy():
    heavy = "{'torch', 'transformers', 'datasets', 'pyarrow'}"
    code = f"import sys, trimtab.formats; print({heavy} & {{*sys.modules}})"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "set()"

"""Opening files and hub data sets: what is read, and the one clear message where it cannot be."""

import gzip
import hashlib
import json
import random

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from trimtab.errors import DataError
from trimtab.formats.hub import HubSource, parse_hub_source
from trimtab.formats.sources import read_content

ROWS = [{"prompt": "p", "completion": "ä"}, {"prompt": "q", "completion": None}]
READ = ({"prompt": "p", "completion": "ä"}, {"prompt": "q"})
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("rows.jsonl", LINES),
        ("rows.jsonl", b"\xef\xbb\xbf" + LINES),
        ("rows.jsonl", LINES.replace(b"\n", b"\r\n").rstrip()),
        ("rows.jsonl.gz", gzip.compress(LINES)),
        ("misnamed.jsonl", gzip.compress(LINES)),
        ("misnamed.jsonl.gz", LINES),
    ],
)
def test_json_lines(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    content = read_content(tmp_path / name)
    assert content.entries == ((1, READ[0]), (2, READ[1]))
    assert content.defects == ()
    assert content.sha256 == hashlib.sha256(data).hexdigest()


def test_blank_lines_keep_their_numbers(tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(b"\n" + LINES.replace(b"\n", b"\n \n"))
    assert [line for line, _ in read_content(tmp_path / "rows.jsonl").entries] == [2, 4]


def test_parquet(tmp_path):
    rows = [*ROWS, {"messages": [{"role": "user", "content": "p"}]}]
    path = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema=_schema()), path, row_group_size=1)
    assert read_content(path).entries == ((1, READ[0]), (2, READ[1]), (3, rows[2]))


def _schema():
    message = pyarrow.struct([("role", pyarrow.string()), ("content", pyarrow.string())])
    fields = [
        ("prompt", pyarrow.string()),
        ("completion", pyarrow.string()),
        ("messages", pyarrow.list_(message)),
    ]
    return pyarrow.schema(fields)


@pytest.mark.parametrize(
    ("name", "data", "kind", "line", "found"),
    [
        ("x.jsonl", b'{"prompt": "p"}\n{"prompt: 1}\n', "bad JSON", 2, "'{\"prompt: 1}'"),
        ("x.jsonl", b"[1, 2]\n", "bad JSON", 1, "[1, 2]"),
        ("x.jsonl", b"[" * 100_000 + b"\n", "bad JSON", 1, "RecursionError"),
        ("x.jsonl", b'{"a": ' + b"1" * 5000 + b"}\n", "bad JSON", 1, "ValueError"),
        ("x.jsonl", '{"prompt": "ä"}\n'.encode("latin-1"), "wrong encoding", 1, "byte 0xe4 at position 13"),
        ("x.jsonl", LINES.decode().encode("utf-16"), "wrong encoding", 1,
         "the byte order mark of UTF-16 or UTF-32 (ff fe)"),
        ("x.jsonl", '{"prompt": "p"}'.encode("utf-16-le"), "wrong encoding", 1, "byte 0x00 at position 2"),
        ("x.jsonl", b'{"prompt": "\\uD83D"}\n', "wrong encoding", 1, "\\ud83d at column 13"),
        ("x.jsonl", b"", "no rows", 0, ""),
        ("x.jsonl", b"\n\n", "no rows", 0, ""),
        ("x.parquet", b"PAR1 or not", "broken file", 1, None),
    ],
)  # fmt: skip
def test_unreadable_content_is_a_defect(tmp_path, name, data, kind, line, found):
    (tmp_path / name).write_bytes(data)
    (defect,) = read_content(tmp_path / name).defects
    assert (defect.kind, defect.file, defect.line) == (kind, str(tmp_path / name), line)
    assert found is None or defect.found == found
    assert defect.fix and defect.effect == "stops"


def test_a_cut_off_gzip_gives_what_was_whole_and_says_where_it_ends(tmp_path):
    rows = b"".join(json.dumps({"prompt": str(random.random())}).encode() + b"\n" for _ in range(5000))
    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress(rows)[:-2000])
    content = read_content(tmp_path / "x.jsonl.gz")
    (defect,) = content.defects
    assert 0 < len(content.entries) < 5000
    assert (defect.kind, defect.line) == ("broken file", len(content.entries) + 1)


def test_a_missing_file_names_the_nearest(tmp_path):
    (tmp_path / "train.jsonl").write_bytes(LINES)
    with pytest.raises(DataError) as caught:
        read_content(tmp_path / "trains.jsonl")
    assert caught.value.where == str(tmp_path / "trains.jsonl")
    assert caught.value.fix == "did you mean train.jsonl?"
    with pytest.raises(DataError, match="no folder"):
        read_content(tmp_path / "nowhere" / "trains.jsonl")


def test_folders_and_other_kinds_of_files_are_refused(tmp_path):
    with pytest.raises(DataError, match="this is a folder"):
        read_content(tmp_path)
    (tmp_path / "x.csv").write_bytes(b"prompt\np\n")
    with pytest.raises(DataError, match=r"the ending '\.csv'"):
        read_content(tmp_path / "x.csv")


def test_hub_spelling():
    assert parse_hub_source("Anthropic/hh-rlhf") == HubSource("Anthropic/hh-rlhf", "", "train")
    assert parse_hub_source("a/b:harmless-base[test]") == HubSource("a/b", "harmless-base", "test")
    assert parse_hub_source("a/b[train[:10%]]") == HubSource("a/b", "", "train[:10%]")
    assert [parse_hub_source(text) for text in ("a", "a/b/c", "a/b[", "../a/b")] == [None] * 4


@pytest.fixture
def asked(monkeypatch):
    """What the hub's client was asked for; the hub has one data set with one configuration."""
    calls = []

    def load_dataset(name, config=None, *, data_dir=None, split):
        calls.append((name, config, data_dir, split))
        if split == "nope":
            raise ValueError('Unknown split "nope".\nmore')
        return ROWS if split == "train" else []

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(datasets, "get_dataset_config_names", lambda name: ["default", "easy"])
    return calls


def test_the_part_is_a_configuration_or_a_folder(asked):
    assert read_content("a/b:easy").entries == ((1, READ[0]), (2, READ[1]))
    read_content("a/b:harmless-base[train]")
    read_content("a/b")
    assert asked == [
        ("a/b", "easy", None, "train"),
        ("a/b", None, "harmless-base", "train"),
        ("a/b", None, None, "train"),
    ]


def test_hub_errors_become_one_message(asked):
    with pytest.raises(DataError) as caught:
        read_content("a/b[nope]")
    assert caught.value.where == "a/b[nope]"
    assert caught.value.found == 'ValueError: Unknown split "nope".'


def test_a_local_file_wins_over_the_hub(tmp_path, monkeypatch, asked):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.jsonl").write_bytes(LINES)
    assert len(read_content("a/b.jsonl").entries) == 2
    with pytest.raises(DataError, match="no such file"):
        read_content("a/c.jsonl")
    assert asked == []

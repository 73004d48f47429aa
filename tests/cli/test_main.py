"""Every command answers --help; every mistake becomes a message, an exit code, and nothing half-made."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from endpoint import scripted_endpoint
from trimtab import __version__
from trimtab.cli.main import app
from trimtab.cli.text import visible
from trimtab.data.tokens import Codec
from trimtab.model import device
from trimtab.model.load import load_tokenizer

HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31m\rline\nnext\ttab\x00\x7f"


def walk(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command and group, with the words that call it."""
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from walk(inner, (*path, name))


COMMANDS = list(walk(typer.main.get_command(app)))


def settings(**values: object) -> list[str]:
    """As --set options; __ stands for a dot."""
    return [part for key, value in values.items() for part in ("--set", f"{key.replace('__', '.')}={value}")]


def nothing_looks_finished(folder: Path) -> bool:
    return not (folder / "DONE").exists() and not (folder / "model").exists()


def is_message(text: str) -> bool:
    return "Traceback" not in text and "Error:" not in text and text.strip() != ""


def test_the_commands_are_those_that_the_docs_speak_of() -> None:
    names = {" ".join(path) for path, command in COMMANDS if not hasattr(command, "commands")}
    assert names == {
        "run", "demo", "plan", "sft", "reward", "dpo", "ppo", "compare", "report", "generate", "play",
        "judge", "merge", "doctor", "verify", "eval demonstrations", "eval reward", "eval agreement",
        "data check", "data stats", "data preview", "models get", "models list", "runs list", "runs show",
        "feedback serve", "feedback new", "feedback change", "feedback projects", "feedback import",
        "feedback export", "feedback agreement", "feedback backup", "feedback restore",
        "feedback users list", "feedback users add", "feedback users link", "feedback users password",
        "feedback users deactivate", "feedback users reactivate",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("path", "command"), COMMANDS, ids=[" ".join(path) or "trimtab" for path, _ in COMMANDS]
)
def test_help(path: tuple[str, ...], command: Any, trimtab: Callable[..., Any]) -> None:
    said = trimtab(*path, "--help")
    assert said.code == 0 and said.err == ""
    assert " ".join(["Usage: trimtab", *path]) in said.out
    if not hasattr(command, "commands"):
        assert f"Example: trimtab {' '.join(path)}" in " ".join(said.out.split())
        assert all(option.help for option in command.params if option.param_type_name == "option")


def test_version(trimtab: Callable[..., Any]) -> None:
    assert trimtab("--version").out == f"trimtab {__version__}\n"


def test_help_does_not_wait_for_torch() -> None:
    program = (
        "import sys, trimtab; assert 'torch' not in sys.modules\n"
        "from trimtab.cli.main import main\n"
        "sys.argv = ['trimtab', *sys.argv[1:]]\n"
        "try: main()\n"
        "finally: assert not {'torch', 'transformers', 'datasets'} & set(sys.modules)\n"
    )
    for words in (["--help"], ["dpo", "--help"], ["runs", "list", "nowhere"]):
        done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["nonsense"],
        ["sft", "--nonsense"],
        ["generate"],
        ["generate", "m", "--max-new", "0"],
        ["play", "a", "b", "--out", "x.jsonl"],
        ["data"],
        ["data", "preview", "x.jsonl"],
        ["run"],
    ],
)
def test_wrong_usage_exits_with_2(words: list[str], trimtab: Callable[..., Any]) -> None:
    said = trimtab(*words)
    assert said.code == 2 and "Usage: trimtab" in said.out + said.err and "Traceback" not in said.err


class TestMistakes:
    """Each becomes one message with what, where and how to fix it; exit code 1."""

    @pytest.fixture(autouse=True)
    def in_a_folder_of_its_own(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)

    def test_unknown_setting(self, trimtab: Callable[..., Any], tmp_path: Path) -> None:
        Path("sft.yaml").write_text("model: m\ndata: d\nbach: 3\n")
        said = trimtab("sft", "sft.yaml", "--out", "run")
        assert said.code == 1 and is_message(said.err) and said.out == ""
        assert said.err == (
            "sft.yaml: bach: there is no such setting\n  found: bach = 3\n  fix:   did you mean batch?\n"
        )
        assert not Path("run").exists()

    def test_unknown_nested_setting_by_set(self, trimtab: Callable[..., Any]) -> None:
        said = trimtab("ppo", *settings(model="m", reward_model="r", data="d", kl__weights=1), "--out", "run")
        assert said.code == 1 and "kl.weights" in said.err and "did you mean weight?" in said.err
        assert not Path("run").exists()

    def test_missing_setting(self, trimtab: Callable[..., Any]) -> None:
        said = trimtab("reward", *settings(model="m"), "--out", "run")
        assert said.code == 1 and "data: this setting is needed" in said.err and not Path("run").exists()

    @pytest.mark.parametrize("words", [["dpo", "no.yaml"], ["run", "no.yaml"]])
    def test_missing_config_file(self, words: list[str], trimtab: Callable[..., Any]) -> None:
        said = trimtab(*words)
        assert said.code == 1 and said.err.startswith("no.yaml: there is no such config file")
        assert not Path("runs").exists()

    def test_missing_data(self, trimtab: Callable[..., Any], model_folder: Path) -> None:
        said = trimtab("sft", *settings(model=model_folder, data="no.jsonl"), "--out", "run")
        assert said.code == 1 and is_message(said.err) and "no.jsonl" in said.err
        assert nothing_looks_finished(Path("run"))

    def test_broken_line(self, trimtab: Callable[..., Any], model_folder: Path, pairs: Path) -> None:
        Path("broken.jsonl").write_text(pairs.read_text() + '{"prompt": "half\n')
        said = trimtab("dpo", *settings(model=model_folder, data="broken.jsonl"), "--out", "run")
        assert said.code == 1 and is_message(said.err) and "broken.jsonl:9" in said.err
        assert nothing_looks_finished(Path("run"))
        assert not Path("run/reference.safetensors").exists()

    @pytest.mark.parametrize(
        ("model", "said_of_it"),
        [("smolm2-135m-instruct", "did you mean smollm2"), ("./no/model", "no such file")],
    )
    def test_unknown_model(
        self, model: str, said_of_it: str, trimtab: Callable[..., Any], pairs: Path
    ) -> None:
        said = trimtab("sft", *settings(model=model, data=pairs), "--out", "run")
        assert said.code == 1 and is_message(said.err) and said_of_it in said.err
        assert nothing_looks_finished(Path("run"))

    def test_an_unfinished_run_is_no_model(self, trimtab: Callable[..., Any], pairs: Path) -> None:
        trimtab("sft", *settings(model="./no/model", data=pairs), "--out", "sft")
        said = trimtab("dpo", *settings(model="sft", data=pairs), "--out", "dpo")
        assert said.code == 1 and "sft: the run is not finished" in said.err and "--resume" in said.err
        assert nothing_looks_finished(Path("sft")) and nothing_looks_finished(Path("dpo"))

    def test_a_reward_model_with_another_tokenizer(
        self,
        trimtab: Callable[..., Any],
        model_folder: Path,
        scorer_folder: Path,
        pairs: Path,
        tmp_path: Path,
    ) -> None:
        for file in scorer_folder.iterdir():
            (tmp_path / "other").mkdir(exist_ok=True)
            (tmp_path / "other" / file.name).write_bytes(file.read_bytes())
        tokenizer = load_tokenizer(str(scorer_folder)).tokenizer
        tokenizer.add_tokens(["another"])
        tokenizer.save_pretrained(tmp_path / "other")
        given = settings(model=model_folder, reward_model="other", data=pairs, device="cpu")
        said = trimtab("ppo", *given, "--out", "run")
        assert said.code == 1 and is_message(said.err)
        assert "another tokenizer or chat template than the policy" in said.err
        assert "301 tokens there, 300 in" in said.err
        assert nothing_looks_finished(Path("run"))

    @pytest.mark.parametrize("stage", ["sft", "reward", "dpo", "ppo", "compare", "generate"])
    def test_too_little_memory(
        self,
        stage: str,
        trimtab: Callable[..., Any],
        model_folder: Path,
        scorer_folder: Path,
        pairs: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(device, "available_memory", lambda _: 1000)
        given = {
            "ppo": settings(model=model_folder, data=pairs, reward_model=scorer_folder),
            "compare": settings(
                policies__a=model_folder,
                policies__b=f"{model_folder}/",
                reference=model_folder,
                judge=scorer_folder,
                held_out=pairs,
            ),
            "generate": [str(model_folder), "--prompt", "hello"],
        }.get(stage, settings(model=model_folder, data=pairs))
        said = trimtab(stage, *given, *([] if stage == "generate" else ["--out", "run"]))
        assert said.code == 1 and is_message(said.err) and said.out == ""
        assert "too little memory for" in said.err and "0.0 GB available" in said.err
        assert nothing_looks_finished(Path("run"))

    def test_running_out_of_memory_on_the_way(
        self,
        trimtab: Callable[..., Any],
        model_folder: Path,
        pairs: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def full(*_: object, **__: object) -> None:
            raise RuntimeError(
                "DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes\nmore"
            )

        monkeypatch.setattr("trimtab.train.sft.learn", full)
        said = trimtab("sft", *settings(model=model_folder, data=pairs, device="cpu"), "--out", "run")
        assert said.code == 1 and "out of memory\n  found: DefaultCPUAllocator" in said.err
        assert "lower row_tokens" in said.err and is_message(said.err)
        assert nothing_looks_finished(Path("run"))

    def test_a_mistake_of_our_own_keeps_its_traceback(
        self, trimtab: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(*_: object) -> None:
            raise RuntimeError("a bug")

        monkeypatch.setattr("trimtab.cli.stages.gather", broken)
        with pytest.raises(RuntimeError, match="a bug"):
            trimtab("sft")

    def test_an_occupied_folder(self, trimtab: Callable[..., Any], pairs: Path) -> None:
        Path("mine").mkdir()
        Path("mine/notes.txt").write_text("keep me")
        said = trimtab("sft", *settings(model="m", data=pairs), "--out", "mine")
        assert said.code == 1 and "holds no run" in said.err
        assert [path.name for path in Path("mine").iterdir()] == ["notes.txt"]

    def test_sizes_that_do_not_divide(self, trimtab: Callable[..., Any]) -> None:
        given = settings(model="m", reward_model="r", data="d", rollouts=30, minibatch=8, episodes=60)
        said = trimtab("ppo", *given)
        assert said.code == 1 and "rollouts must be a multiple of minibatch" in said.err

    def test_a_comparison_of_one(self, trimtab: Callable[..., Any]) -> None:
        given = settings(policies__a="x", reference="x", judge="j", held_out="h")
        said = trimtab("compare", *given)
        assert said.code == 1 and "a comparison needs two policies" in said.err

    def test_a_missing_run_of_the_costs_is_told_first(
        self, trimtab: Callable[..., Any], model_folder: Path, scorer_folder: Path, pairs: Path
    ) -> None:
        given = settings(
            policies__a=model_folder,
            policies__b=f"{model_folder}/",
            reference=model_folder,
            judge=scorer_folder,
            held_out=pairs,
            costs__sft="unfinished",
        )
        Path("unfinished").mkdir()
        Path("unfinished/run.json").write_text("{}")
        said = trimtab("compare", *given, "--out", "run")
        assert said.code == 1 and said.err.splitlines()[-3].startswith("unfinished: the run is not finished")
        assert "answers" not in said.err and nothing_looks_finished(Path("run"))

    @pytest.mark.parametrize("words", [["runs", "show", "nowhere"], ["data", "stats", "no.jsonl"]])
    def test_what_is_not_there(self, words: list[str], trimtab: Callable[..., Any]) -> None:
        said = trimtab(*words)
        assert said.code == 1 and is_message(said.err) and said.out == ""

    def test_a_failed_stage_gives_the_pipeline_its_exit_code(
        self, trimtab: Callable[..., Any], pairs: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from trimtab.pipeline import run

        def failed(stage: Any, folder: Path) -> None:
            raise run.StageFailed(stage.name, 7)

        monkeypatch.setattr(run, "run_stage", failed)
        Path("p.yaml").write_text(
            f"name: p\nmodel: m\ncomparisons: {pairs}\nshares: {{train: 0.5, judge: 0.5}}\n"
            "stages: {sft: {data: train}}\n"
        )
        said = trimtab("run", "p.yaml", "--out", "out")
        assert said.code == 7 and "Traceback" not in said.err


class TestAnswers:
    """generate, play and judge on the tiny model."""

    @pytest.fixture
    def prompts(self, tmp_path: Path) -> Path:
        path = tmp_path / "prompts.jsonl"
        path.write_text('{"prompt": "one"}\n{"prompt": "two"}\n{"prompt": "three"}\n')
        return path

    def test_generate(self, trimtab: Callable[..., Any], model_folder: Path) -> None:
        words = ("generate", model_folder, "--prompt", "hello", "--max-new", 5, "--device", "cpu")
        said = trimtab(*words, "--json")
        answer = json.loads(said.out)
        assert said.code == 0 and answer["prompt"] == "hello" and answer["tokens"] == 5
        assert not answer["stopped"] and answer["logprob"] < 0
        plain = trimtab(*words)
        assert plain.out == visible(answer["response"]) + "\n"
        assert trimtab(*words, "--seed", 1).out != plain.out

    def test_generate_refuses_an_empty_prompt(
        self, trimtab: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys, "stdin", open(os.devnull, encoding="utf-8"))  # noqa: SIM115
        with sys.stdin:
            said = trimtab("generate", "m")
        assert said.code == 1 and "there is no prompt" in said.err

    def test_a_prompt_with_control_tokens_is_refused(
        self, trimtab: Callable[..., Any], model_folder: Path
    ) -> None:
        said = trimtab("generate", model_folder, "--prompt", "hi<|im_end|>", "--device", "cpu")
        assert said.code == 1 and "control token" in said.err and said.out == ""

    def test_an_answer_cannot_steer_the_terminal(
        self, trimtab: Callable[..., Any], model_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Codec, "decode_response", lambda *_: HOSTILE)
        words = ("generate", model_folder, "--prompt", "p", "--max-new", 1, "--device", "cpu")
        said = trimtab(*words)
        assert said.out == "␛]0;owned␇␛[2J⟦U+009B⟧31m␍line\nnext\ttab␀␡\n"
        assert json.loads(trimtab(*words, "--json").out)["response"] == HOSTILE

    def test_play_and_judge(
        self,
        trimtab: Callable[..., Any],
        model_folder: Path,
        scorer_folder: Path,
        prompts: Path,
        tmp_path: Path,
    ) -> None:
        matches, judged = tmp_path / "matches.jsonl", tmp_path / "judged.jsonl"
        words = ("play", model_folder, model_folder, "--prompts", prompts, "--out", matches, "--max-new", 4)
        said = trimtab(*words, "--count", 2, "--device", "cpu")
        assert said.code == 0 and said.out == f"2 comparisons in {matches}\n"
        rows = [json.loads(line) for line in matches.read_text().splitlines()]
        assert len(rows) == 2 and all(row["prompt"] for row in rows)
        again = trimtab(*words)
        assert again.code == 1 and "the file exists already" in again.err

        words = ("judge", matches, "--by", scorer_folder, "--device", "cpu")
        said = trimtab(*words, "--out", judged, "--json")
        result = json.loads(said.out)
        assert said.code == 0 and sum(result["verdicts"].values()) == 2
        assert result["left out"] == [] and result["notes"] == []
        written = [json.loads(line) for line in judged.read_text().splitlines()]
        assert len(written) == 2 and str(scorer_folder) in judged.read_text()
        said = trimtab(*words, "--out", tmp_path / "again.jsonl")
        assert said.code == 0 and said.out.endswith(f"left out: 0\n{tmp_path / 'again.jsonl'}\n")

    def test_a_language_model_judges_and_agreement_is_told(
        self, trimtab: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("JUDGE_KEY", "key")
        matches, judged, settings = (tmp_path / name for name in ("m.jsonl", "j.jsonl", "judge.yaml"))
        rows = [
            {"prompt": f"q {n}", "chosen": ("bad", "good good")[n % 2], "rejected": "good"} for n in range(4)
        ]
        matches.write_text("".join(json.dumps(row) + "\n" for row in rows))
        with scripted_endpoint() as server:
            settings.write_text(
                f"model: m\nbase_url: {server.url}\napi_key_env: JUDGE_KEY\ncache: {tmp_path / 'cache'}\n"
            )
            words = ("judge", matches, "--by", f"llm:{settings}")
            said = trimtab(*words, "--out", judged)
            assert said.code == 0 and len(server.asked) == 8  # in both orders
            assert "m (helpfulness) gave 4 of 4 verdicts: 2 for a, 2 for b" in said.out
            free = trimtab(*words, "--out", tmp_path / "again.jsonl")
            assert free.code == 0 and len(server.asked) == 8
            assert "8 of them answered from the cache" in free.out
        unknown = trimtab("judge", matches, "--by", "llm:no.yaml", "--out", tmp_path / "x.jsonl")
        assert unknown.code == 1 and "no.yaml" in unknown.err and not (tmp_path / "x.jsonl").exists()

        found = json.loads(trimtab("eval", "agreement", matches, judged, "--json").out)
        assert found["judges"] == [str(matches), str(judged)] and found["comparisons"] == 4
        assert found["between"][0]["share"]["estimate"] == 0.5
        said = trimtab("eval", "agreement", matches, judged)
        assert said.code == 0 and "Krippendorff's alpha of the 2 judges on 4 comparisons" in said.out
        alone = trimtab("eval", "agreement", matches)
        assert alone.code == 1 and "agreement needs two files" in alone.err


class TestLooking:
    """runs, doctor, data preview, and tables."""

    def test_runs(self, trimtab: Callable[..., Any], model_folder: Path, pairs: Path, tmp_path: Path) -> None:
        given = settings(model=model_folder, data=pairs, device="cpu", precision="float32", batch=4)
        assert trimtab("sft", *given, "--out", tmp_path / "runs" / "mine").code == 0
        trimtab("sft", *settings(model="./no", data=pairs), "--out", tmp_path / "runs" / "broken")

        broken, mine = json.loads(trimtab("runs", "list", tmp_path / "runs", "--json").out)
        assert (mine["stage"], mine["state"], mine["steps"]) == ("sft", "done", 2)
        assert (broken["state"], broken["steps"]) == ("not done", 0)
        said = trimtab("runs", "list", tmp_path / "runs")
        assert said.code == 0 and len(said.out.splitlines()) == 3

        shown = json.loads(trimtab("runs", "show", tmp_path / "runs" / "mine", "--json").out)
        assert shown["stage"] == "sft" and [row["step"] for row in shown["metrics"]] == [1, 2]
        said = trimtab("runs", "show", tmp_path / "runs" / "mine")
        assert said.out.startswith(f"{tmp_path / 'runs' / 'mine'}: sft, done\n") and "grad_norm" in said.out
        assert trimtab("runs", "list", tmp_path / "none").out == f"no runs below {tmp_path / 'none'}\n"

    def test_tables_cannot_steer_the_terminal(self, trimtab: Callable[..., Any], tmp_path: Path) -> None:
        facts = {"stage": "sft", "parents": HOSTILE}
        (tmp_path / "run.json").write_text(json.dumps(facts))
        said = trimtab("runs", "show", tmp_path)
        assert said.code == 0 and "␛]0;owned␇" in said.out
        assert not set(said.out) & set("\x1b\x07\x9b\r\x00\x7f")

    def test_messages_cannot_steer_the_terminal(self, trimtab: Callable[..., Any]) -> None:
        said = trimtab("sft", "--set", "\x1b[2J=1")
        assert said.code == 1 and "\x1b" not in said.err and "␛[2J" in said.err

    def test_data_cannot_steer_the_terminal(
        self, trimtab: Callable[..., Any], tmp_path: Path, model_folder: Path
    ) -> None:
        path = tmp_path / "hostile.jsonl"
        rows = [
            {"prompt": HOSTILE, "chosen": HOSTILE, "rejected": HOSTILE},
            {"prompt": HOSTILE, "chosen": HOSTILE + "a", "rejected": HOSTILE},
            {HOSTILE: HOSTILE},
            {"prompt": [{"role": HOSTILE, "content": "x"}], "chosen": "a", "rejected": "b"},
        ]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        for words in (("check", path), ("stats", path), ("preview", path, "--model", model_folder)):
            said = trimtab("data", *words)
            assert not set(said.out + said.err) & set("\x1b\x07\x9b\r\x00\x7f"), words

    def test_doctor(self, trimtab: Callable[..., Any]) -> None:
        found = json.loads(trimtab("doctor", "--json").out)
        assert found["trimtab"] == __version__ and "GB available" in found["memory"] and found["torch"]
        assert "computes on" in trimtab("doctor").out

    def test_data_preview(self, trimtab: Callable[..., Any], model_folder: Path, pairs: Path) -> None:
        said = trimtab("data", "preview", pairs, "--model", model_folder, "--json")
        (shown,) = json.loads(said.out)
        prompt, chosen, rejected = shown["parts"]
        assert [part["part"] for part in shown["parts"]] == ["prompt", "chosen", "rejected"]
        assert chosen["ids"][-1] == rejected["ids"][-1] == load_tokenizer(str(model_folder)).stop_id
        assert set(prompt["mask"]) == {0} and set(chosen["mask"]) == {1}


def test_visible_leaves_other_text_alone() -> None:
    text = "Grüße,\n\t“世界” 👩‍🔬 [bold]x[/bold]"
    assert visible(text) == text

"""Where questions go and with which key; the key itself is never shown."""

from __future__ import annotations

import pytest

from trimtab.config import build, to_yaml
from trimtab.errors import ConfigError
from trimtab.judges.llm_settings import LLMJudgeSettings

KEY = "sk-not-a-real-key-0123456789"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("pasted", [KEY, "0123abcd", "deadbeef0123", "", "MY KEY"])
def test_a_key_in_place_of_a_name_is_refused_and_not_shown(pasted: str) -> None:
    with pytest.raises(ConfigError, match="never the key") as error:
        build(LLMJudgeSettings, {"model": "m", "api_key_env": pasted})
    assert not pasted or pasted not in str(error.value)


@pytest.mark.parametrize(
    "address",
    [
        "localhost:8000",
        "ftp://host/v1",
        "http://",
        "http://host:port/v1",
        f"https://me:{KEY}@host/v1",
        f"https://host/v1?key={KEY}",
        f"https://host/v1#{KEY}",
    ],
)
def test_an_odd_address_is_refused_and_not_shown(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="address") as error:
        build(LLMJudgeSettings, {"model": "m", "base_url": address})
    assert KEY not in str(error.value)
    monkeypatch.setenv("OPENAI_BASE_URL", address)
    with pytest.raises(ConfigError, match=r"\$OPENAI_BASE_URL") as error:
        _ = LLMJudgeSettings(model="m").address
    assert KEY not in str(error.value)


def test_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    assert LLMJudgeSettings(model="m", base_url="http://[::1]:8000/v1/").address == "http://[::1]:8000/v1"
    assert LLMJudgeSettings(model="m").address == "https://api.openai.com/v1"
    monkeypatch.setenv("OPENAI_BASE_URL", "http://there/v1/")
    assert LLMJudgeSettings(model="m").address == "http://there/v1"


def test_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    own = LLMJudgeSettings(model="m", base_url="http://there/v1")
    with pytest.raises(ConfigError, match=r"\$OPENAI_API_KEY"):
        LLMJudgeSettings(model="m").key()
    monkeypatch.setenv("OPENAI_API_KEY", f" {KEY}\n")
    assert LLMJudgeSettings(model="m").key() == KEY
    assert own.key() is None
    named = own.model_copy(update={"api_key_env": "OTHER_KEY"})
    with pytest.raises(ConfigError, match=r"\$OTHER_KEY"):
        named.key()
    for broken in (f"{KEY} {KEY}", f"{KEY}\n{KEY}", f"{KEY}é"):
        monkeypatch.setenv("OTHER_KEY", broken)
        with pytest.raises(ConfigError, match="cannot be a key") as error:
            named.key()
        assert KEY not in str(error.value)
    assert KEY not in to_yaml(named)


def test_the_judge_is_named_by_model_and_question() -> None:
    assert LLMJudgeSettings(model="m", template="prompts/mine.txt").judge == "m (mine)"

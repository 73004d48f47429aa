"""Settings of a language model as a judge. The key is never one of them: only where it is to be found."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, PositiveInt, field_validator

from trimtab.config import Settings
from trimtab.errors import ConfigError

Price = Annotated[float, Field(ge=0)]

OPENAI_URL = "https://api.openai.com/v1"
_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*")


class LLMJudgeSettings(Settings):
    """How a language model behind an OpenAI-compatible endpoint is asked for verdicts."""

    model: Annotated[str, Field(min_length=1)]
    """The model's name, as the endpoint knows it."""
    base_url: str | None = None
    """Where the endpoint is, usually ending in /v1; none: $OPENAI_BASE_URL, or OpenAI itself."""
    api_key_env: str | None = None
    """The environment variable that holds the key; none: OPENAI_API_KEY, or no key where base_url is set."""
    template: str = "helpfulness"
    """The question: helpfulness, harmlessness, or a text file of your own (a path with / or .txt)."""
    temperature: Annotated[float, Field(ge=0, le=2)] | None = 0.0
    """0 is the most repeatable; none: not sent, for models that refuse the setting."""
    max_tokens: PositiveInt = 1024
    """Tokens of an answer at most, a model's thoughts included; a verdict that is cut off is none."""
    max_tokens_name: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """What the endpoint calls that limit; OpenAI's newer models know the longer name only."""
    concurrency: Annotated[int, Field(ge=1, le=256)] = 8
    """Questions under way at once, at most."""
    retries: Annotated[int, Field(ge=0, le=20)] = 6
    """Further tries after 408, 409, 429, 5xx, timeouts, dropped connections and malformed answers."""
    timeout: Annotated[float, Field(gt=0)] = 120.0
    """Seconds of silence after which a try has failed."""
    price_input: Price | None = None
    """Price of a million input tokens, in any currency; the cost is counted where both prices are given."""
    price_output: Price | None = None
    """Price of a million output tokens, in the same currency."""
    cache: Path = Path("runs/.llm-judge")
    """Folder of all answers: a question that was answered there is never paid for twice."""

    @field_validator("api_key_env")
    @classmethod
    def _name_not_key(cls, name: str | None) -> str | None:
        if name is not None and not _VARIABLE.fullmatch(name):
            # The value is not shown: it may be the key itself. A ConfigError keeps pydantic from showing it.
            raise ConfigError(
                "api_key_env is the name of an environment variable in capitals, never the key",
                where="api_key_env",
                fix="put the key into a variable such as JUDGE_KEY, and write api_key_env: JUDGE_KEY",
            )
        return name

    @field_validator("base_url")
    @classmethod
    def _plain_address(cls, address: str | None) -> str | None:
        return None if address is None else _checked_address(address, "base_url")

    @property
    def address(self) -> str:
        """Where the questions go, without a slash at its end."""
        if self.base_url is not None:
            return self.base_url
        return _checked_address(os.environ.get("OPENAI_BASE_URL") or OPENAI_URL, "$OPENAI_BASE_URL")

    @property
    def judge(self) -> str:
        """Who the verdicts say has judged."""
        return f"{self.model} ({Path(self.template).stem})"

    def key(self) -> str | None:
        """The key, from its environment variable; None where the endpoint gets none.

        OPENAI_API_KEY goes to an address of the user's own only when it is named: it may be another
        firm's server.

        Raises:
            ConfigError: the variable is not set, or holds what cannot be a key.
        """
        name = self.api_key_env or ("OPENAI_API_KEY" if self.base_url is None else None)
        if name is None:
            return None
        key = os.environ.get(name, "").strip()
        if not key:
            raise ConfigError(
                "the environment variable for the judge's key is not set",
                where=f"${name}",
                fix=f"export {name}=..., or name another variable with api_key_env",
            )
        if not key.isascii() or not key.isprintable() or " " in key:
            raise ConfigError(
                "the environment variable holds something that cannot be a key",
                where=f"${name}",
                found="spaces or characters outside ASCII; the value is not shown",
                fix="put the bare key into it",
            )
        return key


def _checked_address(address: str, where: str) -> str:
    """The address without a slash at its end; one with a password or a query is refused, and not shown.

    Raises:
        ConfigError: not a plain http or https address.
    """
    try:
        parts = urlsplit(address)
        plain = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        secret = "@" in parts.netloc or parts.query or parts.fragment
    except ValueError:  # a port that is no number, a broken IPv6 address
        plain = secret = None
    if not plain or secret:
        raise ConfigError(
            "the judge's address is http(s)://host/path, without a password, ? or #",
            where=where,
            fix="for example http://localhost:11434/v1; a key goes into a variable named by api_key_env",
        )
    return address.rstrip("/")

"""A language model as a judge, behind any OpenAI-compatible endpoint. The only door to the openai client.

Each comparison is asked in both orders. Where they agree, that is the verdict; where they differ, a
tie; where one has no verdict, there is none, and the reason is kept. Nothing is guessed: an answer
that cannot be read is asked for once more with another code (`judges.questions`), which is another
question even at temperature 0, and then is a failure. Such answers stay in the cache for people to
see, and are asked for again by the next run; every other question is paid for once.

A question that the endpoint refuses for what it holds (too long, a filter) is left out with the reason, once
any question has been answered; before that, ten of them say that the settings are wrong.

Texts go to the endpoint and nowhere else: redirects are not followed, nothing is logged here, and what the
openai client tells of the machine it runs on is taken out of its headers.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from trimtab.errors import Interrupted, ModelError
from trimtab.judges.asked import ATTEMPTS, Ask, ask_about, from_cache, read_answer, traffic_of
from trimtab.judges.back_off import back_off, retry_after
from trimtab.judges.both_orders import ORDERS, Judgment, Outcome, combined
from trimtab.judges.llm_report import JudgeReport, report
from trimtab.judges.llm_settings import LLMJudgeSettings
from trimtab.judges.questions import load_template
from trimtab.judges.replies import Reply, read_reply
from trimtab.judges.verdict_cache import VerdictCache
from trimtab.records import Comparison
from trimtab.runs.progress import Bar, bar, say

if TYPE_CHECKING:
    import openai

GIVE_UP_AFTER = 10
"""Questions in a row without an answer, each after all its retries: the endpoint is taken for dead. So many
refused before any was answered: it is taken to refuse them all."""
LONGEST_RETRY_AFTER_S = 300.0
"""An endpoint that asks to wait longer is not waited for: the question fails."""

RETRIED = (408, 409, 429)
OF_ONE_QUESTION = (400, 413, 422)
"""Refusals that may be about what one question holds, where others were answered."""
SHORTEST_KEY = 8
"""Shorter keys, such as `x` or `EMPTY` for a local server, are no secrets and occur in any text."""

Wait = Callable[[threading.Event, float], object]
"""Waits that many seconds, or until the event: threading.Event.wait, or a test's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LLMJudged:
    """Every comparison with what the judge said about it, in the order given, and the sum."""

    judgments: tuple[Judgment, ...]
    report: JudgeReport
    notes: tuple[str, ...]
    """What people should know, such as damaged files in the cache."""

    @property
    def judged(self) -> list[Comparison]:
        """The comparisons that have a verdict now, with that verdict."""
        return [one.comparison.judged(one.verdict) for one in self.judgments if one.verdict]


def judge(
    comparisons: Sequence[Comparison],
    settings: LLMJudgeSettings,
    *,
    name: str = "judging",
    wait: Wait = threading.Event.wait,
) -> LLMJudged:
    """Ask for a verdict on every comparison, in both orders.

    Args:
        name: what the progress bar is called.
        wait: how back-off waits.
    Raises:
        ConfigError: the template or the key. DataError: a text that UTF-8 cannot hold.
        ModelError: the endpoint refuses everything (401, 404 ...) or is dead, or openai is not installed.
        Interrupted: after Ctrl-C; answers that had come are in the cache.
    """
    template = load_template(settings.template)
    asks = [
        None if one.a == one.b else [ask_about(one, shown, number, template, settings) for shown in ORDERS]
        for number, one in enumerate(comparisons, start=1)
    ]
    unique = {ask.key: ask for pair in asks if pair for ask in pair}
    cache = VerdictCache(settings.cache)
    outcomes = {key: found for key, ask in unique.items() if (found := from_cache(ask, cache))}
    missing = {key: ask for key, ask in unique.items() if key not in outcomes}
    requests = retries = 0
    if missing:
        with Endpoint(settings, wait, answered=bool(outcomes)) as endpoint:
            outcomes |= _ask_all(missing, endpoint, cache, name)
            requests, retries = endpoint.requests, endpoint.retries
    judgments = tuple(
        combined(one, [outcomes[ask.key] for ask in pair] if pair else [], settings.judge)
        for one, pair in zip(comparisons, asks, strict=True)
    )
    traffic = traffic_of(list(outcomes.values()), requests, retries)
    return LLMJudged(
        judgments=judgments, report=report(judgments, traffic, settings), notes=tuple(cache.notes)
    )


def _ask_all(
    missing: Mapping[str, Ask], endpoint: Endpoint, cache: VerdictCache, name: str
) -> dict[str, Outcome]:
    """Every question answered, or failed for itself. Whatever ends this early leaves the cache whole."""
    pool = ThreadPoolExecutor(endpoint.settings.concurrency, thread_name_prefix="judge")
    try:
        futures = {pool.submit(_ask_one, ask, endpoint, cache): key for key, ask in missing.items()}
        with bar(name, len(missing), unit="questions") as shown:
            outcomes = _collect(futures, shown, endpoint)
        endpoint.require_an_answer(len(missing))
        return outcomes
    except KeyboardInterrupt:
        say("  stopping: the answers under way are awaited and kept")
        raise Interrupted(
            "judging was interrupted",
            where=endpoint.name,
            fix="the same command goes on from the answers that are kept",
        ) from None
    finally:
        # Answers under way are paid for: they are awaited and kept; nothing new is sent.
        endpoint.stopped.set()
        pool.shutdown(wait=True, cancel_futures=True)


def _collect(futures: Mapping[Future[Outcome], str], shown: Bar, endpoint: Endpoint) -> dict[str, Outcome]:
    outcomes: dict[str, Outcome] = {}
    unanswered = 0
    for future in as_completed(futures):
        outcome = outcomes[futures[future]] = future.result()
        unanswered = 0 if outcome.replies or outcome.refused else unanswered + 1
        if unanswered == GIVE_UP_AFTER:
            raise ModelError(
                f"the judge's endpoint left {GIVE_UP_AFTER} questions in a row unanswered",
                where=endpoint.name,
                found=outcome.failure,
                fix="see that it runs and has quota left; the same command goes on from the answers kept",
            )
        shown.advance()
    return outcomes


def _ask_one(ask: Ask, endpoint: Endpoint, cache: VerdictCache) -> Outcome:
    replies: list[Reply] = []
    failure = ""
    for code, request in ask.attempts:
        try:
            reply = endpoint.complete(request["body"], ask.about)
        except Unanswered as error:
            return Outcome(None, str(error), tuple(replies), False, isinstance(error, Refused))
        cache.put(request, reply)
        replies.append(reply)
        choice, failure = read_answer(reply, code)
        if choice is not None:
            return Outcome(choice, "", tuple(replies), False)
    return Outcome(None, f"{failure} (asked {ATTEMPTS} times)", tuple(replies), False)


class Unanswered(Exception):
    """A question without an answer after all its tries; the message says why."""


class Refused(Unanswered):
    """A question that the endpoint refuses for what it holds."""


class _Failed(Exception):
    """One try failed in a way that may pass."""

    def __init__(self, why: str, retry_after: float | None = None) -> None:
        super().__init__(why)
        self.retry_after = retry_after


class Endpoint:
    """The openai client with our own retries; safe to share between threads.

    Args:
        answered: whether it has answered such questions before.
    """

    def __init__(self, settings: LLMJudgeSettings, wait: Wait, *, answered: bool) -> None:
        self.settings = settings
        self.name = f"{settings.address} (model {settings.model})"
        self.stopped = threading.Event()
        self.requests = self.retries = 0
        self._answered = answered
        self._refusals: list[ModelError] = []
        self._refused: ModelError | None = None
        self._key = settings.key()
        self._wait = wait
        self._lock = threading.Lock()
        self._client = _client(settings, self._key)

    def __enter__(self) -> Endpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def complete(self, body: Mapping[str, Any], about: str) -> Reply:
        """The answer to one request.

        Raises:
            Unanswered: none came after all tries, or the work was stopped.
            Refused: the endpoint refuses this question, and others may be answered.
            ModelError: the endpoint refuses, which neither a retry nor another question would change.
        """
        for attempt in range(self.settings.retries + 1):
            if self.stopped.is_set():
                raise self._refused or Unanswered("the work was stopped")
            with self._lock:
                self.requests += 1
                self.retries += attempt > 0
            try:
                return self._try(body, about)
            except _Failed as failed:
                why, asked = f"{failed} (try {attempt + 1})", failed.retry_after
            if asked is not None and asked > LONGEST_RETRY_AFTER_S:
                raise Unanswered(f"{why}; the endpoint asks to wait {asked:.0f} s")
            if attempt < self.settings.retries:
                self._wait(self.stopped, back_off(attempt, asked))
        raise Unanswered(why)

    def _try(self, body: Mapping[str, Any], about: str) -> Reply:
        import openai

        try:
            raw = self._client.chat.completions.with_raw_response.create(**body)
            reply = read_reply(self._hide(raw.text))
            self._answered = True
            return replace(reply, text=self._hide(reply.text), finish=self._hide(reply.finish))
        except openai.APITimeoutError:
            raise _Failed(f"no answer within {self.settings.timeout:g} s") from None
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            raise _Failed(self._hide(f"no connection: {type(cause).__name__}: {cause}")) from None
        except openai.APIStatusError as error:
            status = error.status_code
            if status in RETRIED or status >= 500:
                raise _Failed(f"status {status}", retry_after(error.response.headers)) from None
            refusal = self._refusal(error, about)
            if status in OF_ONE_QUESTION and not self._refuses_all(refusal):
                raise Refused(f"the endpoint refuses it: {refusal.found}") from None
            self._refused = refusal
            self.stopped.set()  # here, in the thread that knows first: nobody asks again
            raise self._refused from None
        except ValueError as error:
            raise _Failed(f"the answer is no chat completion: {error}") from None

    def require_an_answer(self, questions: int) -> None:
        """Refuse to go on where it refused all of these questions, and has never answered any."""
        if not self._answered and len(self._refusals) == questions:
            raise self._refusals[-1]

    def _refuses_all(self, refusal: ModelError) -> bool:
        """Whether so many were refused, and none answered, that it is not about one question."""
        with self._lock:
            self._refusals.append(refusal)
            return not self._answered and len(self._refusals) >= GIVE_UP_AFTER

    def _refusal(self, error: openai.APIStatusError, about: str) -> ModelError:
        """What the endpoint will say to every try; a wrong key's error may quote the key, so not its text."""
        status = error.status_code
        said = "" if status == 401 else f": {self._hide(error.response.text)[:500]}"
        return ModelError(
            "the judge's endpoint refuses the question",
            where=self.name,
            found=f"status {status} for {about}{said}",
            fix=_FIXES.get(status, "see what the endpoint says about this status"),
        )

    def _hide(self, text: str) -> str:
        """What the endpoint said, without the key, should it send that back."""
        if self._key is None or len(self._key) < SHORTEST_KEY:
            return text
        return text.replace(self._key, "[the key]")


_FIXES = {
    **dict.fromkeys(
        OF_ONE_QUESTION,
        "see that the model takes these settings (temperature, max_tokens, max_tokens_name), and that the "
        "comparison fits its context",
    ),
    401: "check the key in the variable that api_key_env names",
    403: "check that the key may use this model",
    404: "check base_url, which usually ends in /v1, and the model's name",
}


def _client(settings: LLMJudgeSettings, key: str | None) -> openai.OpenAI:
    """The client, with its own retries off. Where there is no key it says `none`, which local servers ignore.

    Raises:
        ModelError: the openai package is not installed.
    """
    try:
        import openai
    except ImportError:
        raise ModelError(
            "a language model as a judge needs the package openai",
            fix="pip install 'trimtab[llm]'",
        ) from None
    client = openai.OpenAI(
        api_key=key or "none",
        base_url=settings.address,
        timeout=settings.timeout,
        max_retries=0,
        http_client=openai.DefaultHttpxClient(
            timeout=settings.timeout, follow_redirects=False, event_hooks={"request": [_tell_less]}
        ),
    )
    if settings.base_url is not None:  # $OPENAI_ORG_ID and the like are OpenAI's business only
        client.organization = client.project = None
    return client


def _tell_less(request: Any) -> None:
    """Take out what the client says about the system and the Python it runs on."""
    for name in list(request.headers):
        # The one that stays is a note of the client to itself, by which it gives the answer as it came.
        if name.lower().startswith("x-stainless-") and name.lower() != "x-stainless-raw-response":
            del request.headers[name]

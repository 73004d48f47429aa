"""The pieces of a row: text, chats, prompts and responses, and what makes a pair comparable."""

from __future__ import annotations

from typing import get_args

from trimtab.formats.rows import RawRow, RowError, excerpt
from trimtab.records import Comparison, Message, Prompt, Role, Verdict

ROLES = ", ".join(get_args(Role))


def text_of(value: object, field: str) -> str:
    """`value` when it is text.

    Raises:
        RowError: wrong value.
    """
    if not isinstance(value, str):
        raise RowError(
            "wrong value",
            f"`{field}` must be text",
            field=field,
            found=excerpt(value),
            fix="write it in quotes",
        )
    return value


def messages_of(value: object, field: str) -> tuple[Message, ...]:
    """A chat: a list of objects with `role` and `content`; other keys in them are not read.

    Raises:
        RowError: wrong value or missing field, with the path of the value: `messages[2].role`.
    """
    if not isinstance(value, list):
        raise RowError(
            "wrong value",
            f"`{field}` must be a list of messages",
            field=field,
            found=excerpt(value),
            fix='write [{"role": "user", "content": "..."}]',
        )
    return tuple(_message(turn, f"{field}[{index}]") for index, turn in enumerate(value))


def _message(turn: object, field: str) -> Message:
    if not isinstance(turn, dict):
        raise RowError(
            "wrong value",
            "a message must be an object",
            field=field,
            found=excerpt(turn),
            fix='write {"role": "user", "content": "..."}',
        )
    for key in ("role", "content"):
        if turn.get(key) is None:
            raise RowError(
                "missing field",
                f"the message has no `{key}`",
                field=f"{field}.{key}",
                found=f"the fields {', '.join(turn) or 'of an empty object'}",
                fix=f"give every message a role ({ROLES}) and content",
            )
    role = turn["role"]
    if role not in get_args(Role):
        raise RowError(
            "wrong value",
            "there is no such role",
            field=f"{field}.role",
            found=excerpt(role),
            fix=f"use one of {ROLES}",
        )
    return Message(role, text_of(turn["content"], f"{field}.content"))


def prompt_of_value(value: object, field: str) -> Prompt:
    """Text to continue, or a chat whose last turn waits for an answer.

    Raises:
        RowError: wrong value, or empty prompt.
    """
    prompt: Prompt = text_of(value, field) if not isinstance(value, list) else messages_of(value, field)
    check_not_blank(prompt, field)
    if not isinstance(prompt, str) and prompt[-1].role == "assistant":
        raise RowError(
            "wrong value",
            "the prompt ends with an assistant message: that is a response",
            field=f"{field}[{len(prompt) - 1}].role",
            found="'assistant'",
            fix="end the prompt with what is to be answered",
        )
    return prompt


def check_not_blank(prompt: Prompt, field: str) -> None:
    """Raise RowError(empty prompt) when there is nothing to answer."""
    last = prompt if isinstance(prompt, str) else prompt[-1].content if prompt else ""
    if not last.strip():
        raise RowError(
            "empty prompt",
            "the prompt is empty",
            field=field,
            found=excerpt(last) if prompt else "no message before the reply",
            fix="write what is to be answered, or drop the row",
        )


def keywords_of(row: RawRow) -> tuple[str, ...]:
    """The row's `keywords`, what a good response must name; none where it has no such field.

    Raises:
        RowError: wrong value.
    """
    value = row.get("keywords", [])
    if not isinstance(value, list) or not all(isinstance(word, str) and word.strip() for word in value):
        raise RowError(
            "wrong value",
            "`keywords` must be a list of words that a good response names",
            field="keywords",
            found=excerpt(value),
            fix='write ["prime", "seven"], or leave the field out',
        )
    return tuple(value)


def split_chat(messages: tuple[Message, ...], field: str) -> tuple[tuple[Message, ...], str]:
    """A whole chat as its prompt and the assistant's last reply.

    Raises:
        RowError: empty reply, when the last message is not the assistant's.
    """
    if not messages or messages[-1].role != "assistant":
        raise RowError(
            "empty reply",
            f"`{field}` does not end with a reply of the assistant",
            field=field,
            found=f"the last message is the {messages[-1].role}'s" if messages else "no messages",
            fix="add the reply, or drop the row",
        )
    return messages[:-1], messages[-1].content


def chat_prompt(prompt: Prompt) -> tuple[Message, ...]:
    """The prompt as a chat; plain text becomes one message of the user."""
    return (Message("user", prompt),) if isinstance(prompt, str) else prompt


def response_of_value(value: object, field: str, prompt: tuple[Message, ...]) -> str:
    """The one reply in a chat that either stands alone or repeats the prompt before it.

    Raises:
        RowError: wrong value, empty reply, or differing prompts.
    """
    before, response = split_chat(messages_of(value, field), field)
    if before and before != prompt:
        raise RowError(
            "differing prompts",
            f"the chat in `{field}` does not begin with the prompt",
            field=field,
            found=f"{len(before)} messages before the reply, the first {excerpt(before[0].content)}",
            fix="make the messages before the reply equal to the prompt, or leave them away",
        )
    return response


def check_reply(response: str, field: str) -> None:
    """Raise RowError(empty reply) when the response is blank."""
    if not response.strip():
        raise RowError(
            "empty reply",
            f"`{field}` has no reply in it",
            field=field,
            found=excerpt(response),
            fix="write the reply, or drop the row",
        )


def check_different(chosen: str, rejected: str, fields: tuple[str, str]) -> None:
    """Raise RowError(identical pair) when the two are the same but for white space around them."""
    if chosen.strip() == rejected.strip():
        raise RowError(
            "identical pair",
            f"`{fields[0]}` and `{fields[1]}` are the same text",
            field=fields[1],
            found=f"{excerpt(chosen)} on both sides",
            fix='drop the row, or record a tie: "verdict": {"preferred": "tie"}',
        )


def decided_pair(prompt: Prompt, chosen: str, rejected: str) -> Comparison:
    """The comparison that `chosen` won.

    Raises:
        RowError: an empty reply, or an identical pair.
    """
    check_reply(chosen, "chosen")
    check_reply(rejected, "rejected")
    check_different(chosen, rejected, ("chosen", "rejected"))
    return Comparison(prompt=prompt, a=chosen, b=rejected, verdict=Verdict(preferred="a"))

"""Secrets stay where they are needed: out of addresses, messages, logs and error texts.

    without_credentials()   an environment whose addresses hold no password: it moves to the variable made for it
    redact()                a text with every secret of this process's environment replaced by `***`
    redact_logs()           every log record of this process passes through `redact`, tracebacks and causes included

An address with a password in it ends up wherever the address is named: in the messages of HTTP clients, in the pages of
servers, in links. So it is taken apart before any library reads it.
"""

import base64
import html
import json
import logging
import os
import re
import traceback
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Any
from urllib.parse import quote, quote_plus, unquote, urlsplit, urlunsplit

from opsd_core.addresses import bare
from opsd_core.errors import ConfigError

CREDENTIALS = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "PREFECT_API_AUTH_STRING")
_OWN_TEXTS = ("strerror", "filename", "filename2", "reason", "msg")  # kept beside `args` by OSError and its like
_SHORTEST = 6  # shorter values are words that occur in any text
_HEADER = re.compile(r"(?i)(authorization['\"]?\s*[:=,]\s*b?['\"]?(?:basic|bearer)\s+)[^\s'\"]+")
_NAMED = re.compile(r"(PASSWORD|PASSWD|SECRET|TOKEN|AUTH_STRING|API_KEY|ACCESS_KEY|SIGNING_KEY|_KEY_BASE|CREDENTIAL)")
_HARMLESS = re.compile(r"(_FILE|_PATH|_DIR|_SECONDS|_ENABLED|_TTL)$|TOKENIZERS_")


def without_credentials(environ: Mapping[str, str]) -> dict[str, str]:
    """A copy of `environ` in which MLFLOW_TRACKING_URI and PREFECT_API_URL hold no user name and password.

    They become MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, PREFECT_API_AUTH_STRING; what these hold already
    is replaced, as the address is the nearer word. Raises ConfigError when OPSD_STORE or the object store's endpoint
    holds a password: those have variables of their own, and no client reads it there.
    """
    kept = dict(environ)
    address, user, password = _split(kept.get("MLFLOW_TRACKING_URI", ""))
    if user or password:
        kept |= {"MLFLOW_TRACKING_URI": address, "MLFLOW_TRACKING_USERNAME": user, "MLFLOW_TRACKING_PASSWORD": password}
    address, user, password = _split(kept.get("PREFECT_API_URL", ""))
    if user or password:
        kept |= {"PREFECT_API_URL": address, "PREFECT_API_AUTH_STRING": f"{user}:{password}"}
    for name in ("OPSD_STORE", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"):
        if any(_split(kept.get(name, ""))[1:]):
            raise ConfigError(
                f"{name} holds a user name or password before the @, where it would be shown with the address. "
                "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead, and leave the address without."
            )
    return kept


def _split(url: str) -> tuple[str, str, str]:
    """Address, user name and password of `url`, the last two empty where it has none."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return url, "", ""
    before, sign, host = parts.netloc.rpartition("@")
    if not sign:
        return url, "", ""
    user, _, password = before.partition(":")
    return urlunsplit((parts.scheme, host, *parts[2:])), unquote(user), unquote(password)


def names_secret(variable: str) -> bool:
    """Whether a variable of this name holds a secret."""
    return bool(_NAMED.search(variable.upper())) and not _HARMLESS.search(variable.upper())


def secrets_of(environ: Mapping[str, str]) -> list[str]:
    """Every secret that `environ` holds, in each of its spellings, longest first."""
    return list(_secrets_of(tuple(environ.items())))


@lru_cache(maxsize=8)
def _secrets_of(variables: tuple[tuple[str, str], ...]) -> tuple[str, ...]:
    found: set[str] = set()
    for name, value in variables:
        if names_secret(name):
            found |= {value, value.partition(":")[2] if "AUTH_STRING" in name.upper() else value}
        if "://" in value:
            found |= {word for url in value.split(",") for word in (_split(url.strip())[2],)}
            found |= {part.partition(":")[2] for part in re.findall(r"://([^/@\s]+)@", value)}
    spelled = {spelling for word in found if len(word) >= _SHORTEST for spelling in spellings(word)}
    return tuple(sorted(spelled, key=lambda word: (-len(word), word)))


def spellings(word: str) -> set[str]:
    """`word` as addresses, `repr`, JSON and HTML write it, and as base64 of any text that it stands in."""
    raw = word.encode("utf-8", "surrogateescape")
    quoted = {quote(raw, safe=""), quote_plus(raw), quote(raw)}
    quoted |= {quote(one, safe="") for one in quoted}
    quoted |= {re.sub("%[0-9A-F]{2}", lambda code: code[0].lower(), one) for one in quoted}
    written = {repr(word)[1:-1], json.dumps(word)[1:-1], json.dumps(word, ensure_ascii=False)[1:-1], html.escape(word)}
    coded = set()
    for before in range(3):  # three bytes are four characters; those at the ends hold bits of the neighbours too
        text = base64.b64encode(bytes(before) + raw).decode().rstrip("=")
        core = text[(0, 2, 3)[before] : len(text) - (1 if (before + len(raw)) % 3 else 0)]
        coded |= {core, core.replace("+", "-").replace("/", "_")}
    return {word} | quoted | written | {core for core in coded if len(core) >= _SHORTEST}


def redact(text: str, secrets: Iterable[str] | None = None) -> str:
    """`text` with every one of `secrets` (default: this process's) and every secret in an address replaced by `***`."""
    for secret in secrets_of(os.environ) if secrets is None else secrets:
        text = text.replace(secret, "***")
    return bare(_HEADER.sub(r"\1***", text))


def redact_logs() -> None:
    """From now on no log record of this process holds a secret; called again it changes nothing."""
    before = logging.getLogRecordFactory()
    if getattr(before, "redacts", False):
        return

    def record(*arguments: Any, **options: Any) -> logging.LogRecord:
        made = before(*arguments, **options)
        text = made.getMessage() if _formats(made) else str(made.msg)
        clean = redact(text)
        if clean != text:
            made.msg, made.args = clean, None
        if made.exc_info and made.exc_info[1] is not None and not made.exc_text:
            made.exc_text = _clean_traceback(made.exc_info[1])
        return made

    record.redacts = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(record)


def _formats(record: logging.LogRecord) -> bool:
    try:
        record.getMessage()
    except Exception:
        return False
    return True


def _clean_traceback(error: BaseException) -> str:
    return redact("".join(traceback.format_exception(error)).rstrip("\n"))


def redact_error(error: BaseException) -> None:
    """Take every secret out of the texts of `error`, its causes and its contexts, in place.

    An exception outlives its message: Prefect puts its `repr` into a run's state and stores it as a result.
    """
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    secrets = secrets_of(os.environ)
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        one.args = cleaned(one.args, secrets)
        for name in (*_OWN_TEXTS, *vars(one)):
            value = getattr(one, name, None)
            if (clean := cleaned(value, secrets)) != value:
                with suppress(AttributeError, TypeError):  # some classes let nothing be changed
                    setattr(one, name, clean)
        waiting += [one.__cause__, one.__context__, *getattr(one, "exceptions", ())]


def cleaned(value: Any, secrets: list[str] | None = None, depth: int = 9) -> Any:
    """`value` with its texts redacted, those inside of lists and dictionaries too; `secrets`: as of `redact`."""
    if isinstance(value, str):
        return redact(value, secrets)
    if isinstance(value, bytes):
        text = value.decode("utf-8", "surrogateescape")
        return value if (clean := redact(text, secrets)) == text else clean.encode("utf-8", "surrogateescape")
    if depth and type(value) in (list, tuple):
        return type(value)(cleaned(part, secrets, depth - 1) for part in value)
    if depth and type(value) is dict:
        return {key: cleaned(part, secrets, depth - 1) for key, part in value.items()}
    return value

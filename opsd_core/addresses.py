"""Addresses and the secrets in them: a password before the @, a signature or token in the query.

    bare()          a text whose addresses hold neither
    holds_secret()  whether a text is different then
    NO_SECRET       the same rule as JSON schema

Settings, and what is said of them, are kept for years in Prefect, MLflow and the store, so an address with a secret is refused
and never shown.
"""

import re
from typing import Any

_USER_AND_PASSWORD = r"://[^\s/@:'\"]*:(?!\d{1,5}/)[^\s'\"]*@"
_LONG_USER = r"://[^\s/@:'\"]{16,}@"  # a token in a name's place, as in https://TOKEN@host
_SECRET_NAMES = (
    r"[Xx]-(?:[Aa]mz|[Gg]oog)-(?:[Ss]ignature|[Cc]redential|[Ss]ecurity-[Tt]oken)|AWSAccessKeyId|GoogleAccessId"
    r"|(?:[A-Za-z]+[_-])?(?:[Tt]oken|[Ss]ecret|[Pp]assword|[Ss]ignature|[Kk]ey|[Aa]uth)|[Aa]pi[Kk]ey|[Pp]asswd|[Pp]wd|[Ss]ig"
)
_QUERY = rf"[?&;](?:{_SECRET_NAMES})=[^&;#\s'\"]+"
NO_SECRET: dict[str, Any] = {"not": {"pattern": rf"{_USER_AND_PASSWORD}|{_LONG_USER}|://.*{_QUERY}"}}
"""JSON schema of a text whose addresses hold no secret."""

_FOUND = re.compile(rf"(?P<user>{_USER_AND_PASSWORD}|{_LONG_USER})|(?P<name>[?&;](?:{_SECRET_NAMES})=)(?P<value>[^&;#\s'\"]+)")


def bare(text: str) -> str:
    """`text` with `***` for every user name and password, and for every signature and token, in its addresses."""
    if "://" not in text and "?" not in text:
        return text
    return _FOUND.sub(lambda found: "://***@" if found["user"] else f"{found['name']}***", text)


def holds_secret(text: str) -> bool:
    """Whether an address in `text` holds a secret."""
    return "://" in text and bare(text) != text

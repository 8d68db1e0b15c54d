"""Users, passwords and tokens in URIs: told from the rest, kept out of what is written or shown.

A URI is written without its secrets (`hide`). What else is shown, such as a message of a library,
is passed through `redact`, which also knows the secrets that this process was given (`remember`).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, quote_plus, unquote

HIDDEN = "***"
FILES = ("sqlite", "file")  # schemes of URIs whose path may hold an @
HARMLESS = ("charset", "connect_timeout", "mode", "sslmode", "timeout")  # keys of a query
_SHORTEST = 4  # characters of a secret that is looked for in other texts: "a" is everywhere

_known: set[str] = set()


def hide(uri: str) -> str:
    """Return a URI without user and password, and without the values of its query.

    All before the last ``@`` is taken for user and password: these may hold ``@``, ``/`` and spaces
    themselves. Where a ``?`` comes before it, all but the scheme is left out.
    """
    scheme, separator, rest = uri.rpartition("://") if "@" not in uri else uri.partition("://")
    if not separator:
        scheme, rest = "", uri
    if scheme.split("+")[0].lower() not in FILES and "@" in rest:
        account, _, place = rest.rpartition("@")
        if set(account) & set("?#"):  # of a password or of a query: nothing says which
            return f"{scheme}{separator}{HIDDEN}"
        rest = f"{HIDDEN}@{place}"
    rest = re.sub(r"([?&;#])([^=&;#?]*)=?([^&;#]*)", _hide_value, rest)
    return f"{scheme}{separator}{rest}"


def _hide_value(match: re.Match[str]) -> str:
    sign, key, value = match.groups()
    if sign != "#" and key.lower() in HARMLESS and HIDDEN not in value:
        return match[0]
    if sign == "#" or not value:  # nothing says which it is
        return f"{sign}{HIDDEN}" if key or value else sign
    return f"{sign}{key}={HIDDEN}"


def hide_storage(storage: str) -> str:
    """Return what `hide` does of a URI; a path has no secrets."""
    return hide(storage) if "://" in storage else storage


def has_secret(uri: str) -> bool:
    """Return whether a URI has something in it that `hide` leaves out."""
    return hide(uri) != uri


def remember(uri: str) -> None:
    """Keep the secrets of a URI out of what this process shows from now on, its log included."""
    if not has_secret(uri):
        return
    rest = uri.partition("://")[2] or uri
    found = re.findall(r"[?&;#]([^=&;#?]*)=?([^&;#]*)", rest)
    parts = [value or key for key, value in found if key.lower() not in HARMLESS]
    if "@" in rest:
        account = rest.rpartition("@")[0]
        user, _, password = account.partition(":")
        # a library that splits it elsewhere takes a piece for the host, and says so
        parts += [account, user, password, *re.split(r"[:/?#@ ]+", account)]
    for part in filter(None, parts):
        forms = {part, unquote(part), quote(part, safe=""), quote(part), quote_plus(part)}
        forms |= {repr(form)[1:-1] for form in forms}
        _known.update(form for form in forms if len(form) >= _SHORTEST)
    _redact_logs()


def redact(text: str) -> str:
    """Return a text without the secrets of the URIs in it, and without those that are known."""
    for secret in sorted(_known, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    schemes = "|".join(FILES)
    text = re.sub(rf"(?i)\b(?!(?:{schemes})\b)([a-z][\w+.-]*:/+)[^\s'\"]*@", rf"\1{HIDDEN}@", text)
    text = re.sub(
        r"(?i)([?&;][\w.-]*(?:token|pass|pwd|secret|key|auth|user|sig|cred)[\w.-]*=)[^\s&;#'\"]+",
        rf"\1{HIDDEN}",
        text,
    )
    return re.sub(r"(?i)\b((?:user|username|role) )(['\"])[^'\"]+\2", rf"\1\2{HIDDEN}\2", text)


def without_secrets(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration's plain values with the secrets of its URIs left out."""
    tracking, search = values["tracking"], values["search"]
    return {
        **values,
        "tracking": {**tracking, "uri": hide(tracking["uri"])},
        "search": {**search, "storage": hide_storage(search["storage"])},
    }


def _redact_logs() -> None:
    """Redact every record of `logging`, whoever writes it: libraries log the URIs they open."""
    make = logging.getLogRecordFactory()
    if getattr(make, "redacts", False):
        return

    def redacted(*arguments: Any, **options: Any) -> logging.LogRecord:
        record = make(*arguments, **options)
        try:
            text = record.getMessage()
        except (TypeError, ValueError):  # its own mistake
            return record
        if (shown := redact(text)) != text:
            record.msg, record.args = shown, None
        if record.exc_info and record.exc_info[0] is not None:
            trace = logging.Formatter().formatException(record.exc_info)
            record.exc_text, record.exc_info = redact(trace), None
        return record

    redacted.redacts = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(redacted)

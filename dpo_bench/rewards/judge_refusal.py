"""What an endpoint's refusal means: wait, ask otherwise, or stop; and what its user can do."""

from __future__ import annotations

import math
import os
import urllib.request
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

LONGEST_ASKED = 300.0
"""Seconds that an endpoint may ask us to wait: limits per minute pass within, hours do not."""
_HOPELESS = (401, 402, 403, 404)


def is_hopeless(status: int, body: object) -> bool:
    """Whether no later request can succeed: the key, the model, the address or the balance."""
    return (
        status in _HOPELESS
        or _field(body, "code") == "insufficient_quota"
        or (_field(body, "type") == "insufficient_quota")
    )


def may_pass(status: int) -> bool:
    """Whether the same request may succeed later."""
    return status >= 500 or status in (408, 409, 425, 429)


def refused_parameter(status: int, body: object, text: str) -> str:
    """``max_tokens`` or ``temperature`` where the endpoint does not take it, else empty."""
    if status not in (400, 422):
        return ""
    unsupported = str(_field(body, "code") or "").startswith("unsupported_")
    if "max_completion_tokens" in text or (unsupported and _field(body, "param") == "max_tokens"):
        return "max_tokens"
    words = ("not support", "unsupported", "deprecated", "only the default")
    if "temperature" in text and (unsupported or any(word in text.lower() for word in words)):
        return "temperature"
    return ""


def wait_asked(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Seconds that an endpoint asks to wait, at most `LONGEST_ASKED`; None where it does not.

    ``retry-after-ms``, or ``Retry-After`` in seconds or as a date (RFC 9110, section 10.2.3).
    """
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        value = headers.get(name) or ""
        try:
            seconds = float(value) * unit
        except ValueError:
            continue
        if math.isfinite(seconds) and seconds >= 0:
            return min(seconds, LONGEST_ASKED)
    try:
        then = parsedate_to_datetime(headers.get("retry-after") or "")
    except ValueError:
        return None
    then = then if then.tzinfo else then.replace(tzinfo=UTC)
    seconds = (then - (now or datetime.now(UTC))).total_seconds()
    return min(max(seconds, 0.0), LONGEST_ASKED)


def address_hint(url: str) -> str:
    """What is probably wrong with an address under which nothing was found; empty: nothing."""
    path = urlsplit(url).path.rstrip("/")
    if path.endswith("/chat/completions"):
        return "; evaluation.judge_base_url must end before /chat/completions"
    if "/v1" not in path:
        return "; is /v1 missing at the end of evaluation.judge_base_url?"
    return ""


def connection_problem(error: BaseException, url: str) -> str:
    """An address that cannot be reached, the innermost cause, and the proxy if there is one."""
    cause = error
    while (inner := _cause(cause)) is not None:
        cause = inner
    parts = urlsplit(url)
    via = ""
    proxies = urllib.request.getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if proxy and not urllib.request.proxy_bypass(parts.hostname or ""):
        via = f" through the proxy {urlsplit(proxy).netloc.rpartition('@')[2]} of the environment"
    told = str(cause) or type(cause).__name__
    if isinstance(cause, ConnectionError) and cause.errno:
        told = os.strerror(cause.errno)  # each library has words of its own
    return f"no connection to {url}{via}: {type(error).__name__}: {told}"


def _cause(error: BaseException) -> BaseException | None:
    if isinstance(error, BaseExceptionGroup):  # one for each address that a host has
        return error.exceptions[0]
    return error.__cause__ or error.__context__


def _field(body: object, name: str) -> Any:
    return body.get(name) if isinstance(body, Mapping) else None

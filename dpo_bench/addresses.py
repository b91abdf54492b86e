"""Addresses of servers, which are written into results and logs: no secret may be in one."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from urllib.parse import parse_qsl, unquote, urlsplit

from dpo_bench.errors import ConfigurationError

NAMES_OF_SECRETS = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL", re.IGNORECASE)
LOOKS_LIKE_A_KEY = re.compile(
    r"(?:^|/)(?:sk|pk|rk|gsk|hf|xai|ghp|glpat|nvapi|AIza)[-_]?[A-Za-z0-9_-]{12,}", re.ASCII
)
SHORTEST_SECRET = 8


def require_plain_url(url: str, key: str, query: Collection[str] = ()) -> None:
    """Refuse what is no address of a server, and one that carries a secret.

    Args:
        url: the address.
        key: of the configuration, for messages, which never show more of it than the host.
        query: names that may stand behind ``?``.

    Raises:
        ConfigurationError: it is none, or carries one: a user or password, a query, a fragment, or
            in its path what looks like a key or is the value of an environment variable named like
            one.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        parts, host = urlsplit(""), None
    if parts.scheme not in ("http", "https") or not host:
        raise ConfigurationError(
            f"{key} is no http(s) address: write it as in http://localhost:8000/v1."
        )
    other = {name for name, _ in parse_qsl(parts.query, keep_blank_values=True)} - set(query)
    path = unquote(parts.path)
    if parts.username or parts.password or other or parts.fragment or _has_secret(path):
        allowed = f", and nothing after ? but {', '.join(query)}" if query else ""
        raise ConfigurationError(
            f"{key} must carry no credentials (host {host}){allowed}: it is written into the "
            "results; put a key into an environment variable."
        )


def _has_secret(path: str) -> bool:
    values = (value for name, value in os.environ.items() if NAMES_OF_SECRETS.search(name))
    known = any(len(value) >= SHORTEST_SECRET and value in path for value in values)
    return known or LOOKS_LIKE_A_KEY.search(path) is not None

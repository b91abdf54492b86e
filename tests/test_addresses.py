"""Secrets in addresses, planted, are refused and shown nowhere."""

from __future__ import annotations

import pytest

from dpo_bench.addresses import require_plain_url
from dpo_bench.errors import ConfigurationError

SECRET = "canary1234567890abcdef"


@pytest.mark.parametrize(
    "url",
    [
        f"https://me:{SECRET}@host/v1",
        f"https://{SECRET}@host/v1",
        f"https://host/v1?key={SECRET}",
        f"https://host/v1#{SECRET}",
        f"https://host/sk-{SECRET}/v1",
        f"https://host/v1/hf_{SECRET}",
        f"https://host/proxy/AIza{SECRET}/v1",
        f"https://host/%73k-{SECRET}/v1",
        f"https://host:port/{SECRET}",
        f"file:///{SECRET}",
        f"https://[{SECRET}/v1",
        f"https:///{SECRET}",
    ],
)
def test_an_address_with_a_secret_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        require_plain_url(url, "evaluation.judge_base_url")
    assert SECRET not in str(caught.value)
    assert "evaluation.judge_base_url" in str(caught.value)


def test_the_value_of_a_variable_that_holds_a_secret_is_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url = f"https://host/{SECRET}/v1"
    require_plain_url(url, "key")
    monkeypatch.setenv("MY_API_KEY", SECRET)
    with pytest.raises(ConfigurationError, match="no credentials"):
        require_plain_url(url, "key")


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost:8000/v1",
        "https://api.openai.com/v1",
        "https://gateway.example.com/v1/0123456789abcdef0123456789abcdef/mine/openai",
        "https://[::1]:8000",
        "https://host/openai/deployments/gpt?api-version=2024-10-21",
    ],
)
def test_plain_addresses_pass(url: str) -> None:
    require_plain_url(url, "key", ["api-version"])

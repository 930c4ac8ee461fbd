"""Prices of models: exact, from the data on disk alone, and never free because they are not known."""

from __future__ import annotations

import socket
from datetime import UTC, datetime
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Any

import pytest
from genai_prices import Usage
from genai_prices.data import providers
from hypothesis import given
from hypothesis import strategies as st

from arcp_io.prices import Price, Prices, Rate, UnpricedModel

AT = datetime(2026, 12, 1, tzinfo=UTC)
MILLION = 1_000_000

amounts = st.decimals(0, 1000, places=12, allow_nan=False, allow_infinity=False)
counts = st.integers(0, 10**9)


def test_a_known_model_costs_what_its_provider_says() -> None:
    rate = Prices().of("openai", "gpt-5-mini", at=AT)
    usage = Usage(input_tokens=1_000, cache_read_tokens=400, output_tokens=100)
    assert rate.cost(usage) == (600 * Decimal("0.25") + 400 * Decimal("0.025") + 100 * 2) / MILLION
    assert rate.cost({"input_tokens": 1_000}) == Decimal("0.00025")
    assert (rate.name, rate.currency, rate.context_window) == ("openai/gpt-5-mini", "USD", 400_000)


def test_prices_come_from_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **options: Any) -> None:
        raise AssertionError("prices open no connection")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    assert Prices().of("anthropic", "claude-sonnet-4-5").most(1, 1) > 0


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("acme", "small"),
        ("", "gpt-5-mini"),
        ("openai", "no-such-model"),
        ("github-copilot", "gpt-4o"),  # Its data has no prices.
        ("openai", "text-embedding-3-small"),  # It has a price of input alone.
        ("fallback", "fallback:gpt-5-mini,gpt-5"),
    ],
)
def test_a_model_without_prices_is_refused(provider: str, model: str) -> None:
    with pytest.raises(UnpricedModel) as caught:
        Prices().of(provider, model)
    assert caught.value.model == f"{provider}/{model}"
    assert f"prices={{'{provider}/{model}': Price(" in caught.value.message
    assert (caught.value.code, caught.value.retryable) == ("INVALID_REQUEST", False)
    own = Prices({f"{provider}/{model}": Price(input="0.1", output=0)})
    assert own.of(provider, model).cost(Usage(input_tokens=10, output_tokens=10)) == Decimal("0.000001")


def test_the_address_of_an_api_counts_before_the_name_of_its_provider() -> None:
    url = "https://openrouter.ai/api/v1/"
    by_url = Prices().of("openai", "anthropic/claude-sonnet-4.5", url=url, at=AT)
    assert by_url.most(1, 1) == Prices().of("openrouter", "anthropic/claude-sonnet-4.5", at=AT).most(1, 1)
    unknown = Prices().of("openai", "gpt-5-mini", url="https://models.example/", at=AT)
    assert unknown.most(1, 1) == Prices().of("openai", "gpt-5-mini", at=AT).most(1, 1)


def test_own_prices_count_before_those_of_genai_prices_and_in_other_currencies_alone() -> None:
    own = {"openai/gpt-5-mini": Price(input=1, output=2, cache_read="0.5", cache_write="1.25")}
    usage = Usage(input_tokens=4, cache_read_tokens=1, cache_write_tokens=1, output_tokens=1)
    for currency in ("USD", "EUR"):
        rate = Prices(own, currency=currency).of("openai", "gpt-5-mini")
        assert rate.cost(usage) == Decimal("0.00000575")
        assert rate.most(4, 1) == Decimal("0.000007")
        assert rate.context_window is None
    with pytest.raises(UnpricedModel, match="no price in EUR"):
        Prices(own, currency="EUR").of("openai", "gpt-5")


@pytest.mark.parametrize("value", ["-1", "NaN", "Infinity", "one", Decimal("-0.1")])
def test_a_price_is_a_finite_amount(value: Any) -> None:
    with pytest.raises(ValueError, match="input_mtok"):
        Prices({"acme/small": Price(input=value, output=1)})


@pytest.mark.parametrize("value", [0.1, True, None])
def test_a_price_is_exact(value: Any) -> None:
    with pytest.raises(TypeError, match="input_mtok"):
        Prices({"acme/small": Price(input=value, output=1)})


def test_the_dearest_outcome_counts_caches_tiers_and_the_tier_that_settings_ask_for() -> None:
    rate = Prices().of("anthropic", "claude-sonnet-4-5", at=AT)
    assert rate.most(1000, 0) == Decimal("0.006")  # All of it is written to the cache for an hour.
    assert rate.most(300_000, 0) > 300 * rate.most(1000, 0)
    mini = Prices().of("openai", "gpt-5-mini", at=AT)
    assert mini.most(1000, 1000) == Decimal("0.00225")
    assert mini.most(1000, 1000, asked={"priority"}) == Decimal("0.00405")
    assert mini.cost({"input_tokens": 1000}, {"service_tier": "priority"}) == Decimal("0.00045")


def test_input_of_other_media_counts_where_there_are_files() -> None:
    rate = Prices().of("google", "gemini-2.5-flash", at=AT)
    assert rate.most(1000, 0, files=True) > rate.most(1000, 0)


def test_counts_that_contradict_each_other_have_no_cost() -> None:
    rate = Prices().of("openai", "gpt-5-mini", at=AT)
    with pytest.raises(ValueError, match="cannot exceed"):
        rate.cost(Usage(input_tokens=1, cache_read_tokens=2))


def test_the_model_of_an_answer_has_its_own_price() -> None:
    prices = Prices({"acme/small": Price(input=1, output=1)})
    asked = prices.of("openai", "gpt-5", at=AT)
    assert prices.of_answer(asked, "gpt-5-mini").name == "openai/gpt-5-mini"
    for model in (None, "gpt-5", "no-such-model"):
        assert prices.of_answer(asked, model) is asked
    own = prices.of("acme", "small")
    assert prices.of_answer(own, "large") is own


@given(amounts, amounts, amounts, amounts, st.lists(counts, min_size=4, max_size=4))
def test_costs_are_exact_and_never_above_the_dearest_outcome(
    input: Decimal, output: Decimal, read: Decimal, write: Decimal, tokens: list[int]
) -> None:
    plain, cached, written, answered = tokens
    rate = Prices({"a/b": Price(input, output, read, write)}).of("a", "b")
    usage = Usage(
        input_tokens=plain + cached + written,
        cache_read_tokens=cached,
        cache_write_tokens=written,
        output_tokens=answered,
    )
    with localcontext() as ambient:
        ambient.prec = 5  # The context of the caller does not matter.
        cost = rate.cost(usage)
        most = rate.most(plain + cached + written, answered)
    parts = ((plain, input), (cached, read), (written, write), (answered, output))
    assert Fraction(cost) == sum(count * Fraction(price) for count, price in parts) / MILLION
    assert cost <= most


@given(st.sampled_from(["default", "flex", "priority", "fast", ""]), st.lists(counts, min_size=4, max_size=4))
def test_no_usage_of_a_known_model_costs_more_than_its_dearest_outcome(tier: str, tokens: list[int]) -> None:
    plain, cached, written, answered = tokens
    for provider, model in KNOWN:
        rate: Rate = Prices().of(provider, model, at=AT)
        usage = Usage(
            input_tokens=plain + cached + written,
            cache_read_tokens=cached,
            cache_write_tokens=written,
            output_tokens=answered,
        )
        cost = rate.cost(usage, {"service_tier": tier})
        assert cost <= rate.most(plain + cached + written, answered, asked={tier})


def test_each_model_of_the_data_has_a_dearest_outcome_or_is_refused() -> None:
    prices, priced = Prices(), 0
    for provider in providers:
        for model in provider.models:
            try:
                rate = prices.of(provider.id, model.id, at=AT)
            except UnpricedModel:
                continue
            priced += 1
            for tokens in (1_000, 900_000):
                written = {"cache_write_tokens": tokens, "cache_write_1h_tokens": tokens}
                for parts in ({}, {"cache_read_tokens": tokens}, written):
                    cost = rate.cost(Usage(input_tokens=tokens, output_tokens=777, **parts))
                    assert 0 < cost <= rate.most(tokens, 777), rate
    assert priced > 1_000


KNOWN = (
    ("openai", "gpt-5-mini"),
    ("openai", "o3"),
    ("anthropic", "claude-sonnet-4-5"),
    ("anthropic", "claude-opus-4-8"),
    ("google", "gemini-2.5-pro"),
    ("deepseek", "deepseek-chat"),
)

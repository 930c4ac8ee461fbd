"""Prices of models as exact amounts: from the data that genai-prices brings, and from the host.

Nothing here uses the network: prices are those of the installed release of genai-prices, or those that the
program itself has loaded by the UpdatePrices of genai-prices. A model without prices is refused; it never
counts as free of charge.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Context, Decimal, Inexact, InvalidOperation, localcontext
from typing import Final

from arcp_io.errors import AgentError

try:
    from genai_prices import Usage, calc_price
    from genai_prices.types import ModelInfo, ModelPrice, Provider, TieredPrices
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "prices of models need genai-prices: pip install 'arcp-io[pydantic-ai]'", name=error.name
    ) from None

__all__ = ["Price", "Prices", "Rate", "UnpricedModel"]

DOLLARS: Final = "USD"
"""The currency of the data of genai-prices."""
INPUT: Final = "input_mtok"
OUTPUT: Final = "output_mtok"
MILLION: Final = Decimal(1_000_000)
A_TOKEN: Final = "_mtok"
"""The end of the names of prices of a million tokens."""
A_REQUEST: Final = "requests_kcount"
"""The price of a thousand requests."""
OTHER_MEDIA: Final = ("_audio_", "_image_", "_video_")
"""Parts of the names of prices for tokens that are not text."""
_EXACT: Final = Context(prec=128, traps=[Inexact, InvalidOperation])
"""A context that raises instead of rounding."""


class UnpricedModel(AgentError):
    """A model without prices, whose calls are refused; `model` is its name, as in `prices=`.

    A job that ends with it has the code INVALID_REQUEST.
    """

    def __init__(self, model: str, currency: str) -> None:
        self.model = model
        super().__init__(
            f"the model {model} has no price in {currency}, and a call without a price is refused: state one"
            f" with prices={{{model!r}: Price(input=..., output=...)}}, per million tokens",
            retryable=False,
        )


@dataclass(frozen=True)
class Price:
    """The price of a million tokens of one model, as exact decimals, text or int.

    `input` and `output` may be 0, for a model that is free of charge. Tokens that are read from a cache, or
    written to it, cost what input costs, unless `cache_read` and `cache_write` are given.
    """

    input: Decimal | str | int
    output: Decimal | str | int
    cache_read: Decimal | str | int | None = None
    cache_write: Decimal | str | int | None = None

    def _amounts(self) -> dict[str, Decimal]:
        """Return the prices by their names in genai-prices; raises TypeError or ValueError."""
        amounts = {INPUT: _amount(INPUT, self.input), OUTPUT: _amount(OUTPUT, self.output)}
        cached = {"cache_read_mtok": self.cache_read, "cache_write_mtok": self.cache_write}
        return amounts | {name: _amount(name, value) for name, value in cached.items() if value is not None}


class Prices:
    """The prices of models in one currency: those of `own`, and in USD those of genai-prices.

    `own` maps names of models, `provider/model`, to prices, which count before those of genai-prices. Raises
    TypeError or ValueError for a price that is not an exact amount of at least 0.
    """

    def __init__(self, own: Mapping[str, Price] | None = None, *, currency: str = DOLLARS) -> None:
        self.currency = currency
        """The currency of all amounts."""
        self._own = {name: ModelPrice(**price._amounts()) for name, price in (own or {}).items()}

    def __repr__(self) -> str:
        return f"<Prices in {self.currency}, {len(self._own)} of them the host's own>"

    def of(self, provider: str, model: str, *, url: str | None = None, at: datetime | None = None) -> Rate:
        """Return what a model costs in requests that begin at a time, by default now.

        `url` is the address of the provider's API: if genai-prices knows it, it counts before the name of the
        provider. Raises UnpricedModel unless both input and output have a price.
        """
        at = at or datetime.now(UTC)
        name = f"{provider}/{model}"
        own = self._own.get(name)
        if own is not None:
            return Rate(name, self.currency, own)
        found = _known(provider, model, url, at) if self.currency == DOLLARS else None
        if found is None:
            raise UnpricedModel(name, self.currency)
        info, seller = found
        return Rate(name, self.currency, info.get_prices(at), info=info, seller=seller, at=at)

    def of_answer(self, rate: Rate, model: str | None, *, url: str | None = None) -> Rate:
        """Return what the model costs that an answer names, which may be another one than was asked for.

        It is `rate` for a price of the host's own, and if the named model has no price.
        """
        if model is None or rate.at is None or rate.name in self._own:
            return rate
        provider, _, asked = rate.name.partition("/")
        if model == asked:
            return rate
        try:
            return self.of(provider, model, url=url, at=rate.at)
        except UnpricedModel:
            return rate


class Rate:
    """The prices of one model at one time, and the exact costs of requests; see `Prices.of`."""

    def __init__(
        self,
        name: str,
        currency: str,
        price: ModelPrice,
        *,
        info: ModelInfo | None = None,
        seller: Provider | None = None,
        at: datetime | None = None,
    ) -> None:
        self.name = name
        """The model, as `provider/model`."""
        self.currency = currency
        """The currency of all amounts."""
        self.at = at
        """The time at which the prices hold; None for prices of the host's own."""
        self._price = price
        self._info = info
        self._seller = seller

    def __repr__(self) -> str:
        return f"<Rate of {self.name} in {self.currency}>"

    @property
    def context_window(self) -> int | None:
        """The most tokens that a request can have as input; None if that is not known."""
        window: int | None = None if self._info is None else self._info.context_window
        return window

    def cost(self, usage: object, context: Mapping[str, str] | None = None) -> Decimal:
        """Return the exact cost of a request.

        `usage` has the counts of genai-prices as attributes or keys: input_tokens, output_tokens,
        cache_read_tokens and so on, of which parts are included in their whole. `context` selects variants
        of prices, such as `{"service_tier": "priority"}`. Raises ValueError for counts that contradict each
        other, and for a cost that has no exact decimal form.
        """
        try:
            with localcontext(_EXACT):
                if self._info is None or self._seller is None:
                    own: Decimal = self._price.calc_price(usage)["total_price"]
                    return own
                known = self._info.calc_price(
                    usage,
                    self._seller,
                    genai_request_timestamp=self.at,
                    price_context=None if context is None else dict(context),
                )
                total: Decimal = known.total_price
                return total
        except (Inexact, InvalidOperation):
            raise ValueError(f"the cost of a request to {self.name} has no exact decimal form") from None

    def most(
        self, input_tokens: int, output_tokens: int, *, files: bool = False, asked: Collection[str] = ()
    ) -> Decimal:
        """Return the exact cost of the dearest request with at most this many tokens.

        All input may be written to a cache or read from it, at the dearest of these prices. With `files` it
        may be of any medium, otherwise it is text. `asked` are values of settings that may select a dearer
        variant of the prices, such as a service tier.
        """
        offered = list(self._offered(asked))
        dearest_input = max(_token_prices(offered, "output_", input_tokens, files=files))
        dearest_output = max(_token_prices(offered, ("input_", "cache_"), input_tokens, files=True))
        per_thousand = max(price for one in offered for price in _values(one, A_REQUEST, input_tokens))
        with localcontext(_EXACT):
            tokens = (dearest_input * input_tokens + dearest_output * output_tokens) / MILLION
            return tokens + per_thousand / 1000

    def _offered(self, asked: Collection[str]) -> Iterator[ModelPrice]:
        """Yield the prices that a request may be billed by."""
        yield self._price
        if self._info is None or self.at is None:
            return
        together: dict[str, str] = {}
        for variant in self._info.price_variants or ():
            if all(value in asked for value in variant.when.values()):
                together |= variant.when
                yield self._info.get_prices(self.at, variant.when)
        yield self._info.get_prices(self.at, together)


def _known(provider: str, model: str, url: str | None, at: datetime) -> tuple[ModelInfo, Provider] | None:
    """Return the model of genai-prices and its provider; None unless both input and output have a price."""
    for by_url in (True, False) if url else (False,):
        try:
            if by_url:
                found = calc_price(Usage(), model, provider_api_url=url, genai_request_timestamp=at)
            else:
                found = calc_price(Usage(), model, provider_id=provider, genai_request_timestamp=at)
        except LookupError:
            continue
        stated = vars(found.model_price)
        if stated.get(INPUT) is not None and stated.get(OUTPUT) is not None:
            return found.model, found.provider
    return None


def _token_prices(
    offered: Collection[ModelPrice], other: str | tuple[str, ...], input_tokens: int, *, files: bool
) -> Iterator[Decimal]:
    """Yield the prices of a million tokens, but for those that begin with `other`: of the other direction."""
    for price in offered:
        for name in vars(price):
            text_only = not files and any(medium in name for medium in OTHER_MEDIA)
            if name.endswith(A_TOKEN) and not name.startswith(other) and not text_only:
                yield from _values(price, name, input_tokens)


def _values(price: ModelPrice, name: str, input_tokens: int) -> Iterator[Decimal]:
    """Yield the values that a price may have with at most this much input: 0 if it is not stated."""
    value = vars(price).get(name)
    if isinstance(value, TieredPrices):
        yield value.base
        yield from (tier.price for tier in value.tiers if tier.start < input_tokens)
    else:
        yield Decimal(0) if value is None else value


def _amount(name: str, value: object) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, Decimal | str | int):
        raise TypeError(f"a price is a Decimal, text or int, not {type(value).__name__}: {name}")
    try:
        amount = Decimal(value)
    except InvalidOperation:
        raise ValueError(f"{value!r:.40} is not a decimal number: {name}") from None
    if not amount.is_finite() or amount < 0:
        raise ValueError(f"a price is finite and not negative, and {value!r:.40} is not: {name}")
    return amount

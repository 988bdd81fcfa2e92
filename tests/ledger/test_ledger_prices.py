import logging
from collections import Counter
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import ConfigError
from penstock.ledger.prices import CacheTerms, Price, PriceTable
from penstock.messages import Usage


@pytest.fixture(scope="module")
def packaged():
    return PriceTable.load()


def microdollars(*terms):
    """Tokens times dollars per million: microdollars, in units of 1e-12 dollars."""
    cost = sum(tokens * Fraction(price) for tokens, price in terms) * 10**6
    assert cost.denominator == 1
    return int(cost)


class TestGolden:
    """Usage objects as the providers' documentation shows them, and what the bill for them is."""

    def test_openai_with_a_cached_prefix(self, packaged):
        # {"prompt_tokens": 2006, "completion_tokens": 300, "prompt_tokens_details": {"cached_tokens": 1920}}
        usage = Usage(input_tokens=2006, output_tokens=300, cached_input_tokens=1920)
        cost = packaged.cost("openai", "gpt-4o-2024-08-06", usage)
        assert cost == microdollars((86, "2.5"), (1920, "1.25"), (300, 10)) == 5_615_000_000

    def test_an_image_that_was_edited(self, packaged):
        # {"input_tokens": 389, "output_tokens": 1056, "input_tokens_details": {"text_tokens": 66, "image_tokens": 323}}
        usage = Usage(389, 1056, image_input_tokens=323, units=1)
        cost = packaged.cost("openai", "gpt-image-1", usage)
        assert cost == microdollars((66, 5), (323, 10), (1056, 40)) == 45_800_000_000

    def test_sound_that_was_transcribed(self, packaged):
        # {"type": "tokens", "input_tokens": 14, "output_tokens": 45, "input_token_details": {"audio_tokens": 14}}
        usage = Usage(14, 45, audio_input_tokens=14)
        assert packaged.cost("openai", "gpt-4o-transcribe", usage) == microdollars((14, 6), (45, 10))
        # {"type": "duration", "seconds": 90}
        assert packaged.cost("openai", "whisper-1", Usage(units=90_000)) == 9_000_000_000

    def test_what_is_counted_in_no_tokens(self, packaged):
        assert packaged.cost("openai", "tts-1", Usage(units=4_096, estimated=True)) == 61_440_000_000
        assert packaged.cost("cohere", "rerank-v3.5", Usage(units=3)) == 6_000_000_000
        assert packaged.cost("openai", "omni-moderation-latest", Usage()) == 0
        assert packaged.unpriced == 0

    def test_openai_reasoning_is_part_of_the_output(self, packaged):
        # {"prompt_tokens": 21, "completion_tokens": 810, "completion_tokens_details": {"reasoning_tokens": 768}}
        usage = Usage(input_tokens=21, output_tokens=810, reasoning_tokens=768)
        assert packaged.cost("openai", "o3-mini", usage) == microdollars((21, "1.1"), (810, "4.4"))

    def test_openai_audio(self, packaged):
        # {"prompt_tokens": 1117, "prompt_tokens_details": {"audio_tokens": 1100, "text_tokens": 17},
        #  "completion_tokens": 46, "completion_tokens_details": {"audio_tokens": 33, "text_tokens": 13}}
        usage = Usage(input_tokens=1117, output_tokens=46, audio_input_tokens=1100, audio_output_tokens=33)
        cost = packaged.cost("openai", "gpt-4o-audio-preview", usage)
        assert cost == microdollars((17, "2.5"), (1100, 40), (13, 10), (33, 80))

    def test_openai_embedding(self, packaged):
        usage = Usage(input_tokens=8)
        assert packaged.cost("openai", "text-embedding-3-small", usage) == 8 * 20_000

    def test_anthropic_writing_the_cache(self, packaged):
        # {"input_tokens": 21, "cache_creation_input_tokens": 188086, "cache_read_input_tokens": 0,
        #  "output_tokens": 393}: input_tokens of ours is the sum
        usage = Usage(input_tokens=188_107, output_tokens=393, cache_write_tokens=188_086)
        cost = packaged.cost("anthropic", "claude-3-5-sonnet-20241022", usage)
        assert cost == microdollars((21, 3), (188_086, "3.75"), (393, 15)) == 711_280_500_000

    def test_anthropic_writing_the_cache_for_an_hour(self, packaged):
        usage = Usage(input_tokens=1_100, cache_write_tokens=1_000, cache_write_1h_tokens=400)
        cost = packaged.cost("anthropic", "claude-haiku-4-5-20251001", usage)
        assert cost == microdollars((100, 1), (600, "1.25"), (400, 2))
        terms = packaged.cache_terms("anthropic", "claude-haiku-4-5-20251001")
        assert (terms.read, terms.write, terms.write_1h, terms.minimum) == (0.1, 1.25, 2.0, 4_096)

    def test_the_cache_of_a_model_without_a_price_has_the_usual_terms_and_keeps_nothing_for_an_hour(
        self, packaged
    ):
        assert packaged.cache_terms("some", "unheard-of") == CacheTerms()
        assert packaged.cache_terms("some", "unheard-of").write_1h is None

    def test_anthropic_reading_the_cache(self, packaged):
        usage = Usage(input_tokens=188_107, output_tokens=393, cached_input_tokens=188_086)
        cost = packaged.cost("anthropic", "claude-3-5-sonnet-20241022", usage)
        assert cost == microdollars((21, 3), (188_086, "0.3"), (393, 15))

    def test_anthropic_long_context_is_dearer_as_a_whole(self, packaged):
        usage = Usage(input_tokens=200_001, output_tokens=10, cached_input_tokens=200_000)
        cost = packaged.cost("anthropic", "claude-sonnet-4-5-20250929", usage)
        assert cost == microdollars((1, 6), (200_000, "0.6"), (10, "22.5"))

    def test_long_context_begins_above_its_bound(self, packaged):
        usage = Usage(input_tokens=200_000, output_tokens=10)
        assert packaged.cost("google", "gemini-2.5-pro", usage) == microdollars((200_000, "1.25"), (10, 10))

    def test_the_highest_tier_that_is_exceeded_holds(self, packaged):
        for tokens, price in ((32_000, "1.2"), (32_001, "2.4"), (128_001, 3)):
            assert packaged.cost("qwen", "qwen3-max", Usage(input_tokens=tokens)) == microdollars(
                (tokens, price)
            )

    def test_deepseek_with_prices_below_a_cent(self, packaged):
        # {"prompt_tokens": 1000, "prompt_cache_hit_tokens": 896, "prompt_cache_miss_tokens": 104, ...}
        usage = Usage(input_tokens=1000, output_tokens=7, cached_input_tokens=896)
        cost = packaged.cost("deepseek", "deepseek-v4-pro", usage)
        assert cost == microdollars((104, "0.435"), (896, "0.003625"), (7, "0.87"))


class TestNames:
    @pytest.mark.parametrize(
        ("model", "name"),
        [
            ("gpt-4o", "gpt-4o"),
            ("gpt-4o-2024-08-06", "gpt-4o"),
            ("gpt-4o-2024-05-13", "gpt-4o-2024-05-13"),
            ("gpt-4o-mini", "gpt-4o-mini"),
            ("gpt-4o-mini-2024-07-18", "gpt-4o-mini"),
            ("gpt-4-0613", "gpt-4"),
            ("gpt-5-chat-latest", "gpt-5-chat"),
            ("claude-sonnet-4-20250514", "claude-sonnet-4"),
            ("claude-sonnet-4-5@20250929", "claude-sonnet-4-5"),
            ("anthropic.claude-sonnet-4-5-20250929-v1:0", "claude-sonnet-4-5"),
            ("us.anthropic.claude-opus-4-6-v1", "claude-opus-4-6"),
            ("global.anthropic.claude-sonnet-4-6", "claude-sonnet-4-6"),
            ("gemini-2.0-flash-001", "gemini-2.0-flash"),
            ("models/gemini-2.5-pro", "gemini-2.5-pro"),
            ("openai/gpt-4o-mini", "gpt-4o-mini"),
            ("grok-4-0709", "grok-4"),
        ],
    )
    def test_a_name_stands_for_its_versions(self, packaged, model, name):
        price = packaged.price("anywhere", model)
        assert price is not None
        assert name in price.models

    @pytest.mark.parametrize(
        "model",
        ["gpt-4o-super", "gpt-4", "gpt-45", "gpt", "somebody/gpt-4o", "gpt-4o-2024-08-06-mine", "", "sim-1"],
    )
    def test_a_name_does_not_stand_for_what_only_begins_like_it(self, packaged, model):
        price = packaged.price("anywhere", model)
        assert price is None or model in price.models


class TestUnknown:
    def test_costs_nothing_and_is_counted(self):
        table = PriceTable.load()
        assert table.cost("local", "my-llama", Usage(input_tokens=5)) == 0
        assert table.cost("local", "my-llama", Usage(input_tokens=5)) == 0
        assert table.unpriced == 2
        assert table.unpriced_models == {"my-llama"}

    def test_is_said_once(self, caplog):
        table = PriceTable.load()
        with caplog.at_level(logging.WARNING):
            for _ in range(3):
                table.cost("local", "my-llama", Usage())
        assert len(caplog.records) == 1

    def test_names_that_callers_invent_take_bounded_memory(self, caplog):
        caplog.set_level(logging.CRITICAL)
        table = PriceTable()
        for number in range(10_000):
            table.cost("local", f"model-{number}", Usage())
        assert table.unpriced == 10_000
        assert len(table.unpriced_models) == 10
        assert len(table._rates) <= 4_096


class TestUserTable:
    def load(self, tmp_path, text, **options):
        path = tmp_path / "prices.toml"
        path.write_text(text)
        return PriceTable.load(str(path), **options)

    def test_lies_over_the_packages(self, tmp_path):
        table = self.load(
            tmp_path, 'version = "ours"\n[[price]]\nmodels = ["gpt-4o"]\ninput = 2\noutput = 3\n'
        )
        assert table.cost("openai", "gpt-4o", Usage(input_tokens=1, output_tokens=1)) == 5 * 10**6
        assert table.price("openai", "gpt-4o-mini").input == Decimal("0.15")
        assert table.version.endswith("+ours")

    def test_may_price_one_upstream_only(self, tmp_path):
        table = self.load(tmp_path, '[[price]]\nupstream = "rack"\nmodels = ["*"]\ninput = 0\n')
        assert table.cost("rack", "gpt-4o", Usage(input_tokens=1)) == 0
        assert table.unpriced == 0
        assert table.cost("openai", "gpt-4o", Usage(input_tokens=1)) == 2_500_000

    def test_longest_pattern_wins(self, tmp_path):
        text = '[[price]]\nmodels = ["llama-*"]\ninput = 1\n[[price]]\nmodels = ["llama-3-*"]\ninput = 2\n'
        table = self.load(tmp_path, text)
        assert table.cost("x", "llama-2-7b", Usage(input_tokens=1)) == 10**6
        assert table.cost("x", "llama-3-7b", Usage(input_tokens=1)) == 2 * 10**6

    @pytest.mark.parametrize(
        ("text", "complaint"),
        [
            ("[[price]", "prices.toml"),
            ('[[price]]\nmodels = ["x"]\ninput = 1\nimput = 2\n', "imput"),
            ('[[price]]\nmodels = ["x"]\n', "input"),
            ('[[price]]\nmodels = ["x"]\ninput = -1\n', "not a price"),
            ('[[price]]\nmodels = ["x"]\ninput = nan\n', "not a price"),
            ('[[price]]\nmodels = ["x"]\ninput = 1e40\n', "not a price"),
            ('[[price]]\nmodels = ["x"]\ninput = 1e999999\n', "not a price"),
            ('[[price]]\nmodels = ["x"]\ninput = 1e99999999999999999999\n', "prices.toml"),
            (f'[[price]]\nmodels = ["x"]\ninput = {"9" * 5_000}\n', "prices.toml"),
            (f"price = {'[' * 5_000}", "prices.toml"),
            ('[[price]]\nmodels = ["x"]\ninput = 0.0000001\n', "six decimals"),
            (
                '[[price]]\nmodels = ["x"]\ninput = 1\ntiers = [{above = 1, input = inf, output = 1}]\n',
                "not a price",
            ),
            ("[[price]]\nmodels = []\ninput = 1\n", "at least one"),
            ('[[price]]\nmodels = ["x"]\ninput = "cheap"\n', "prices.toml"),
        ],
    )
    def test_mistakes_are_named(self, tmp_path, text, complaint):
        with pytest.raises(ConfigError) as raised:
            self.load(tmp_path, text)
        assert complaint in str(raised.value) + " ".join(raised.value.mistakes)

    def test_a_missing_file_is_a_mistake(self, tmp_path):
        with pytest.raises(ConfigError, match="cannot be read"):
            PriceTable.load(str(tmp_path / "nowhere.toml"))


def test_the_simulator_costs_one_and_two_dollars_whatever_its_models_are_called():
    table = PriceTable.load(kinds={"default": "sim", "openai": "openai"})
    usage = Usage(input_tokens=1_000_000, output_tokens=1_000_000)
    assert table.cost("default", "gpt-4o", usage) == 3 * 10**12
    assert table.cost("default", "anything", usage) == 3 * 10**12
    assert table.cost("openai", "anything", usage) == 0


class TestPackagedTable:
    def test_every_entry_says_whose_it_is_when_it_held_and_where_it_stands(self, packaged):
        for price in packaged.prices:
            assert price.provider, price
            assert price.source, price
            assert price.as_of, price

    def test_no_name_stands_twice(self, packaged):
        names = Counter((price.kind, name) for price in packaged.prices for name in price.models)
        assert [name for name, count in names.items() if count > 1] == []

    def test_parts_are_not_dearer_than_plausible(self, packaged):
        for price in packaged.prices:
            if price.cached_input is not None:
                assert price.cached_input < price.input, price
            if price.cache_write is not None:
                assert price.input < price.cache_write <= 2 * price.input, price
            if price.cache_write_1h is not None:
                assert price.cache_write_1h == 2 * price.input, price
                assert 512 <= price.cache_minimum <= 4_096, price
            for tier in price.tiers:
                assert tier.input > price.input, price
                assert tier.output >= price.output, price

    def test_has_a_version(self, packaged):
        assert packaged.version


def test_an_upstream_that_reports_nonsense_does_not_pay_us(packaged):
    usage = Usage(input_tokens=1, cached_input_tokens=1000)
    assert packaged.cost("openai", "gpt-4o", usage) == 0


prices = st.decimals(0, 1000, places=6)


@given(prices, prices, prices, st.data())
def test_cost_is_exact(plain, cached, output, data):
    table = PriceTable([Price(models=("m",), input=plain, cached_input=cached, output=output)])
    total = data.draw(st.integers(0, 2_000_000))
    part = data.draw(st.integers(0, total))
    answer = data.draw(st.integers(0, 100_000))
    expected = (total - part) * Fraction(plain) + part * Fraction(cached) + answer * Fraction(output)
    assert table.cost("u", "m", Usage(total, answer, part)) == expected * 10**6


class TestUnits:
    def test_units_without_a_price_are_counted_and_named(self, caplog):
        table = PriceTable([Price(models=("tts",), input=Decimal("0.6"), output=Decimal(12))])
        with caplog.at_level(logging.WARNING):
            assert table.cost("up", "tts", Usage(units=50, estimated=True)) == 0
            assert table.cost("up", "tts", Usage(units=50, estimated=True)) == 0
        assert table.unpriced == 2
        assert caplog.text.count("no price is known for model 'tts'") == 1
        assert table.cost("up", "tts", Usage(10, 5, units=50)) == microdollars((10, "0.6"), (5, 12))
        assert table.unpriced == 2

    def test_a_price_of_nothing_is_a_price(self):
        table = PriceTable([Price(models=("free",), input=Decimal(0), image=Decimal(0))])
        assert table.cost("up", "free", Usage(units=3)) == 0
        assert table.unpriced == 0

    def test_a_part_of_a_minute_costs_a_part(self):
        table = PriceTable([Price(models=("w",), input=Decimal(0), minute=Decimal("0.000667"))])
        assert table.cost("up", "w", Usage(units=1)) == 667_000_000 // 60_000

    def test_an_entry_has_one_of_them(self, tmp_path):
        path = tmp_path / "prices.toml"
        path.write_text('[[price]]\nmodels = ["m"]\ninput = 0\nimage = 0.04\nminute = 0.006\n')
        with pytest.raises(ConfigError) as refused:
            PriceTable.load(str(path))
        assert "only one of image, minute, characters, search" in str(refused.value.mistakes)


class TestInBatches:
    def test_a_providers_own_batches_cost_half(self, packaged):
        for upstream, model in (("openai", "gpt-4o-2024-08-06"), ("anthropic", "claude-sonnet-4-5")):
            assert packaged.in_batch(upstream, model, 5_000_000) == 2_500_000

    def test_a_share_of_ones_own_goes_before(self, tmp_path):
        path = tmp_path / "prices.toml"
        path.write_text(
            '[[price]]\nmodels = ["own"]\ninput = 1\nbatch = 0.25\n'
            '[[price]]\nmodels = ["theirs"]\nprovider = "host"\ninput = 1\n'
            '[[price]]\nmodels = ["plain"]\ninput = 1\n'
            '[[batch]]\nprovider = "host"\nshare = 0.6\n[[batch]]\nprovider = "openai"\nshare = 0.4\n'
        )
        table = PriceTable.load(str(path))
        shares = {
            name: table.in_batch("up", name, 100) for name in ("own", "theirs", "plain", "gpt-4o", "none")
        }
        assert shares == {"own": 25, "theirs": 60, "plain": 100, "gpt-4o": 40, "none": 100}

    @pytest.mark.parametrize("share", ["-0.1", "1.5", "nan"])
    def test_what_is_no_share_is_refused(self, tmp_path, share):
        path = tmp_path / "prices.toml"
        path.write_text(f'[[batch]]\nprovider = "host"\nshare = {share}\n')
        with pytest.raises(ConfigError):
            PriceTable.load(str(path))

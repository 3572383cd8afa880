"""Providers' own usage objects, as their documentation shows them: each is read as the API that answered it means it."""

from typing import Any

import pytest
from genai_prices.data_snapshot import get_snapshot

from usage_pipeline.events.units.providers import has_thoughts_beside, provider_usage_of, without_texts
from usage_pipeline.values import Malformed

CHAT = {
    "prompt_tokens": 100,
    "completion_tokens": 50,
    "total_tokens": 150,
    "prompt_tokens_details": {"cached_tokens": 90, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 10, "audio_tokens": 0, "accepted_prediction_tokens": 0},
}
ANTHROPIC = {
    "input_tokens": 5,
    "cache_read_input_tokens": 128_000,
    "cache_creation_input_tokens": 1_200,
    "cache_creation": {"ephemeral_5m_input_tokens": 1_000, "ephemeral_1h_input_tokens": 200},
    "output_tokens": 500,
    "service_tier": "standard",
}
GEMINI = {
    "promptTokenCount": 120,
    "candidatesTokenCount": 300,
    "thoughtsTokenCount": 900,
    "totalTokenCount": 1_320,
    "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 100}, {"modality": "IMAGE", "tokenCount": 20}],
}
BEDROCK = {
    "inputTokens": 5,
    "cacheReadInputTokens": 128_000,
    "cacheWriteInputTokens": 1_200,
    "outputTokens": 500,
    "totalTokens": 129_705,
}
CACHED = {"input_tokens": 129_205, "output_tokens": 500, "cache_read_tokens": 128_000, "cache_write_tokens": 1_200}
WITH_TTL = CACHED | {"cache_write_5m_tokens": 1_000, "cache_write_1h_tokens": 200}
OF_CHAT = {"input_tokens": 100, "output_tokens": 50, "cache_read_tokens": 90, "output_reasoning_tokens": 10}


@pytest.mark.parametrize(
    ("provider", "model", "usage", "right"),
    [
        ("openai", "gpt-4o", CHAT, OF_CHAT),
        ("openai", "gpt-4o", {"id": "chatcmpl-1", "model": "gpt-4o-of-tomorrow", "usage": CHAT}, OF_CHAT),
        ("azure", "gpt-4o", CHAT, OF_CHAT),
        ("a-gateway", "gpt-4o", CHAT, OF_CHAT),
        ("a-gateway", "openai/gpt-4o", CHAT, OF_CHAT),
        ("openrouter", "openai/gpt-4o", CHAT, OF_CHAT),
        (
            "openai",
            "gpt-4o",
            {"input_tokens": 100, "output_tokens": 50, "input_tokens_details": {"cached_tokens": 90}},
            {"input_tokens": 100, "output_tokens": 50, "cache_read_tokens": 90},
        ),
        ("openai", "text-embedding-3-small", {"prompt_tokens": 8, "total_tokens": 8}, {"input_tokens": 8}),
        (
            "openai",
            "gpt-image-1",
            {
                "input_tokens": 100,
                "output_tokens": 50,
                "input_tokens_details": {"text_tokens": 60, "image_tokens": 40},
            },
            {"input_tokens": 100, "output_tokens": 50, "input_text_tokens": 60, "input_image_tokens": 40},
        ),
        ("anthropic", "claude-sonnet-4-5", ANTHROPIC, WITH_TTL),
        ("anthropic", "claude-sonnet-4-5", {"type": "message", "usage": ANTHROPIC}, WITH_TTL),
        ("azure", "claude-sonnet-4-5", ANTHROPIC, WITH_TTL),
        ("vertex_ai", "claude-sonnet-4-5", ANTHROPIC, WITH_TTL),
        ("bedrock", "anthropic.claude-sonnet-4-5-20250929-v1:0", ANTHROPIC, WITH_TTL),
        ("bedrock", "anthropic.claude-sonnet-4-5-20250929-v1:0", BEDROCK, CACHED),
        # A gateway that calls itself openai, and passes on what Anthropic answered.
        ("openai", "claude-sonnet-4-5", ANTHROPIC, WITH_TTL),
        (
            "google",
            "gemini-2.5-flash",
            GEMINI,
            {
                "input_tokens": 120,
                "output_tokens": 1_200,
                "output_reasoning_tokens": 900,
                "input_text_tokens": 100,
                "input_image_tokens": 20,
            },
        ),
        (
            "google",
            "gemini-2.5-flash",
            {"usageMetadata": {"promptTokenCount": 120.0}, "modelVersion": "gemini-2.5-flash"},
            {"input_tokens": 120},
        ),
        (
            "x-ai",
            "grok-4",
            {"prompt_tokens": 199, "completion_tokens": 1, "completion_tokens_details": {"reasoning_tokens": 253}},
            {"input_tokens": 199, "output_tokens": 254, "output_reasoning_tokens": 253},
        ),
        (
            "cohere",
            "command-r",
            {
                "billed_units": {"input_tokens": 5, "output_tokens": 3},
                "tokens": {"input_tokens": 70, "output_tokens": 3},
            },
            {"input_tokens": 5, "output_tokens": 3},
        ),
        # With and without annotations, which cost more: the answer does not say.
        (
            "mistral",
            "mistral-ocr-latest",
            {"pages_processed": 3},
            {"input_document_pages": 3, "input_annotated_document_pages": None},
        ),
    ],
)
def test_a_providers_object_is_read_as_its_api_means_it(
    provider: str, model: str, usage: dict[str, Any], right: dict[str, int | None]
) -> None:
    counts = provider_usage_of(provider, model, usage).counts
    assert {unit: count for unit, count in counts.items() if count != 0} == right


@pytest.mark.parametrize(
    ("provider", "model", "usage", "reason"),
    [
        (
            "a-gateway",
            "a-model",
            CHAT,
            "expected a provider whose usage object the price package reads, came a-gateway",
        ),
        ("together", "a-model", CHAT, "expected a provider whose usage object the price package reads, came together"),
        (
            "openai",
            "gpt-4o",
            {},
            r"an API of openai \(chat, responses, .*came members none. Or send the counts as usage",
        ),
        ("anthropic", "claude-sonnet-4-5", {"output_tokens": 5}, "came members output_tokens"),
        ("openai", "gpt-4o", CHAT | {"completion_tokens": "50"}, "expected a number at completion_tokens, came '50'"),
        ("openai", "gpt-4o", CHAT | {"completion_tokens": True}, "expected a number at completion_tokens, came 'True'"),
        ("openai", "gpt-4o", CHAT | {"completion_tokens": -1}, "Invalid usage value for output_tokens"),
        ("openai", "gpt-4o", CHAT | {"completion_tokens": 1.5}, "output_tokens: expected a whole number, came 1.5"),
        (
            "openai",
            "gpt-4o",
            CHAT | {"prompt_tokens_details": {"cached_tokens": "9"}},
            "expected a number at prompt_tokens_details.cached_tokens, came '9'",
        ),
        ("google", "gemini-2.5-flash", GEMINI | {"promptTokensDetails": [{"modality": 5}]}, "as google default"),
    ],
)
def test_what_cannot_be_read_is_refused_with_what_was_expected(
    provider: str, model: str, usage: dict[str, Any], reason: str
) -> None:
    with pytest.raises(Malformed, match=reason):
        provider_usage_of(provider, model, usage)


LITELLM = {
    "prompt_tokens": 129_205,
    "completion_tokens": 500,
    "total_tokens": 129_705,
    "cache_read_input_tokens": 128_000,
    "cache_creation_input_tokens": 1_200,
}
OF_GOOGLE = {"prompt_tokens": 120, "completion_tokens": 300, "total_tokens": 1_320}
THOUGHT = {"input_tokens": 120, "output_tokens": 1_200, "output_reasoning_tokens": 900}
DEEPSEEK = {
    "prompt_tokens": 100,
    "completion_tokens": 50,
    "total_tokens": 150,
    "prompt_cache_hit_tokens": 64,
    "prompt_cache_miss_tokens": 36,
}
PERPLEXITY = {
    "prompt_tokens": 33,
    "completion_tokens": 7_163,
    "total_tokens": 7_196,
    "citation_tokens": 20_016,
    "num_search_queries": 18,
    "reasoning_tokens": 73_997,
}


def thoughts(count: int) -> dict[str, Any]:
    return {"completion_tokens_details": {"reasoning_tokens": count}}


@pytest.mark.parametrize(
    ("provider", "model", "usage", "right", "total"),
    [
        # Google's OpenAI-compatible API tells the thoughts in the total only.
        ("google", "gemini-2.5-flash", OF_GOOGLE, THOUGHT, 1_320),
        ("google", "gemini-2.5-flash", OF_GOOGLE | thoughts(900), THOUGHT, 1_320),
        ("a-gateway", "gemini-2.5-flash", {"usage": OF_GOOGLE}, THOUGHT, 1_320),
        # xAI counts thoughts beside the answer, and LiteLLM puts them into it. The total says which it is.
        ("x-ai", "grok-4", OF_GOOGLE | thoughts(900), THOUGHT, 1_320),
        ("x-ai", "grok-4", OF_GOOGLE | {"completion_tokens": 1_200} | thoughts(900), THOUGHT, 1_320),
        ("openrouter", "a-model", OF_GOOGLE | thoughts(900), THOUGHT, 1_320),
        # Gemini's candidates have had the thoughts in them, too.
        (
            "google",
            "gemini-2.5-flash",
            GEMINI | {"candidatesTokenCount": 1_200},
            THOUGHT | {"input_text_tokens": 100},
            1_320,
        ),
        # Tokens that nobody names are in the total alone.
        ("openai", "gpt-4o", CHAT | {"total_tokens": 170}, OF_CHAT, 170),
        # What is null is not read; it is in the total all the same.
        (
            "openai",
            "gpt-4o",
            {"prompt_tokens": 100, "completion_tokens": None, "total_tokens": 150},
            {"input_tokens": 100},
            150,
        ),
        # Perplexity's total has what is charged beside the answer not in it, and Bedrock's may be without cached tokens.
        (
            "perplexity",
            "sonar-deep-research",
            PERPLEXITY,
            {
                "input_tokens": 33,
                "output_tokens": 101_176,
                "output_reasoning_tokens": 73_997,
                "output_citation_tokens": 20_016,
                "web_searches": 18,
            },
            None,
        ),
        ("bedrock", "anthropic.claude-sonnet-4-5-20250929-v1:0", BEDROCK | {"totalTokens": 505}, CACHED, None),
        # Libraries have 0 for what they do not know.
        ("openai", "gpt-4o", CHAT | {"total_tokens": 0}, OF_CHAT, None),
    ],
)
def test_the_objects_own_total_says_what_its_counts_mean(
    provider: str, model: str, usage: dict[str, Any], right: dict[str, int], total: int | None
) -> None:
    found = provider_usage_of(provider, model, usage)
    counts = {unit: count for unit, count in found.counts.items() if count and unit != "input_image_tokens"}
    assert (counts, found.total) == (right, total)


@pytest.mark.parametrize(
    ("usage", "reason"),
    [
        (CHAT | {"total_tokens": 149}, r"\(as openai chat\): expected a total of at least .* = 150 as read, came 149"),
        (CHAT | {"total_tokens": "150"}, "total_tokens: expected a number, came"),
    ],
)
def test_a_total_that_contradicts_its_counts_is_refused(usage: dict[str, Any], reason: str) -> None:
    with pytest.raises(Malformed, match=reason):
        provider_usage_of("openai", "gpt-4o", usage)


def test_a_total_that_is_told_twice_must_be_the_same() -> None:
    assert provider_usage_of("openai", "gpt-4o", CHAT, 150).total == 150
    with pytest.raises(Malformed, match="total_tokens: expected the 150 that provider_usage says, or none, came 151"):
        provider_usage_of("openai", "gpt-4o", CHAT, 151)


@pytest.mark.parametrize(
    ("provider", "model", "usage", "right"),
    [
        ("anthropic", "claude-sonnet-4-5", LITELLM, CACHED),
        ("openai", "gpt-4o", LITELLM, CACHED),
        # As above without a total: in what OpenAI calls prompt_tokens, cached ones are counted.
        ("anthropic", "claude-sonnet-4-5", LITELLM | {"total_tokens": None}, CACHED),
        # The total says that they are beside it.
        ("anthropic", "claude-sonnet-4-5", LITELLM | {"prompt_tokens": 5}, CACHED),
        # The same counts under two names.
        (
            "anthropic",
            "claude-sonnet-4-5",
            LITELLM
            | {
                "prompt_tokens_details": {
                    "cached_tokens": 128_000,
                    "cache_creation_tokens": 1_200,
                    "cache_creation_token_details": {
                        "ephemeral_5m_input_tokens": 1_000,
                        "ephemeral_1h_input_tokens": 200,
                    },
                }
            },
            WITH_TTL,
        ),
        # Beside input_tokens, as Anthropic has it; but the total may say otherwise.
        ("openai", "gpt-4o", {name: count for name, count in ANTHROPIC.items() if name != "cache_creation"}, CACHED),
        (
            "openai",
            "gpt-4o",
            {"input_tokens": 100, "output_tokens": 50, "total_tokens": 150, "cache_read_input_tokens": 90},
            {"input_tokens": 100, "output_tokens": 50, "cache_read_tokens": 90},
        ),
        ("deepseek", "deepseek-chat", DEEPSEEK, {"input_tokens": 100, "output_tokens": 50, "cache_read_tokens": 64}),
        (
            "deepseek",
            "deepseek-chat",
            DEEPSEEK | {"prompt_tokens_details": {"cached_tokens": 64}},
            {"input_tokens": 100, "output_tokens": 50, "cache_read_tokens": 64},
        ),
        # What contradicts itself, or has a name that nobody knows, cannot be known: it is no 0.
        (
            "deepseek",
            "deepseek-chat",
            DEEPSEEK | {"prompt_tokens_details": {"cached_tokens": 60}},
            {"input_tokens": 100, "output_tokens": 50, "cache_read_tokens": None},
        ),
        (
            "openai",
            "gpt-4o",
            CHAT | {"prompt_tokens_details": None, "num_cached_tokens": 90, "cache_creation_token_count": 0},
            {"input_tokens": 100, "output_tokens": 50, "output_reasoning_tokens": 10, "cache_read_tokens": None},
        ),
        (
            "openai",
            "gpt-4o",
            CHAT | {"cached": {"tokens_written": 7}, "cache_discount": 0.5},
            OF_CHAT | {"cache_write_tokens": None},
        ),
    ],
)
def test_cached_tokens_count_under_whatever_name(
    provider: str, model: str, usage: dict[str, Any], right: dict[str, int | None]
) -> None:
    counts = provider_usage_of(provider, model, usage).counts
    assert {unit: count for unit, count in counts.items() if count != 0} == right


@pytest.mark.parametrize(
    "more",
    [
        {"cost_details": {"cache_read_input_token_cost": 0.0003}},
        {"cost_details": {"cached_tokens_usd": 1}},
        {"cached_tokens_share": 0.9},
        {"cache_tokens": -1},
        {"cached_tokens_seen": True},
    ],
)
def test_what_counts_no_tokens_is_passed_over(more: dict[str, Any]) -> None:
    counts = provider_usage_of("openai", "gpt-4o", CHAT | more).counts
    assert {unit: count for unit, count in counts.items() if count != 0} == OF_CHAT


def test_what_an_erasure_keeps_of_an_object_is_read_alike() -> None:
    for provider, usage in (("anthropic", LITELLM), ("deepseek", DEEPSEEK), ("google", OF_GOOGLE), ("google", GEMINI)):
        assert provider_usage_of(provider, "", without_texts(usage)) == provider_usage_of(provider, "", usage)


def test_each_flavor_of_each_provider_is_found_by_an_object_of_its_own() -> None:
    for provider in get_snapshot().providers:
        for flavor in provider.extractors or ():
            usage: dict[str, Any] = {}
            steps = [flavor.root] if isinstance(flavor.root, str) else list(flavor.root)
            inside = usage
            for step in steps:
                inside = inside.setdefault(str(step), {})
            for number, mapping in enumerate(flavor.mappings, 1):
                path = [mapping.path] if isinstance(mapping.path, str) else list(mapping.path)
                if all(isinstance(step, str) for step in path):
                    place = inside
                    for step in path[:-1]:
                        place = place.setdefault(str(step), {})
                    place[str(path[-1])] = number
            _, found = provider.extract_usage(usage, api_flavor=flavor.api_flavor)
            counts = provider_usage_of(provider.id, "", usage).counts
            known = {unit: count for unit, count in counts.items() if count is not None}
            assert known.items() <= vars(found).items(), (provider.id, flavor.api_flavor)


@pytest.mark.parametrize(
    ("provider", "model", "right"),
    [
        ("google", "gemini-2.5-flash", True),
        ("vertex_ai", "gemini-of-tomorrow", True),
        ("a-gateway", "gemini-2.5-flash", True),
        ("x-ai", "grok-4", True),
        # Claude at Google counts as Anthropic does.
        ("google", "claude-sonnet-4-5", False),
        # Its total has searches and citations beside the answer, too.
        ("perplexity", "sonar", False),
        ("openrouter", "google/gemini-2.5-flash", False),
        ("openai", "gpt-4o", False),
        ("anthropic", "claude-sonnet-4-5", False),
        ("a-gateway", "a-model", False),
    ],
)
def test_totals_with_thoughts_beside_the_answer(provider: str, model: str, right: bool) -> None:
    assert has_thoughts_beside(provider, model) is right

"""Providers' own usage objects, as their documentation shows them: each is read as the API that answered it means it."""

from typing import Any

import pytest
from genai_prices.data_snapshot import get_snapshot

from usage_pipeline.events.units.providers import has_thoughts_beside, provider_counts
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
    counts = provider_counts(provider, model, usage)
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
        provider_counts(provider, model, usage)


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
            counts = provider_counts(provider.id, "", usage)
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

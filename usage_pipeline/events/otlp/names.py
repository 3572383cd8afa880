"""The attributes that are read, in one table for all dialects: add a name to a line, and it is read from then on.

Names of the current GenAI conventions come first, then older ones, OpenLLMetry's (`llm.usage.…`), OpenInference's
(`llm.token_count.…`).
All of them count cached tokens within the input, and thoughts within the output:
https://github.com/open-telemetry/semantic-conventions-genai/blob/main/docs/registry/attributes/gen-ai.md
"""

from collections.abc import Mapping
from typing import Final

# Which spans are one call of a model, by the first of these attributes that a span has. Case does not count.
MODEL_CALLS: Final[Mapping[str, frozenset[str]]] = {
    "gen_ai.operation.name": frozenset(
        {"chat", "text_completion", "generate_content", "generate_live_content", "embeddings"}
    ),
    "openinference.span.kind": frozenset({"llm", "embedding"}),
    # A rerank is a call of a provider, too. OpenInference's RERANKER is not always.
    "llm.request.type": frozenset({"chat", "completion", "embedding", "rerank"}),
}
# Their tokens, if they have any, are those of their children. Of others with tokens the answer says that they do not count.
SUMS: Final = frozenset(
    {
        *("create_agent", "invoke_agent", "invoke_workflow", "execute_tool", "execute_task", "plan", "retrieval"),
        *("fetch_response", "agent", "chain", "tool", "retriever", "reranker", "guardrail", "evaluator", "prompt"),
        *("workflow", "task"),
    }
)
# OpenLLMetry's marker of everything that is no call of a model.
FRAMEWORK_MARKER: Final = "traceloop.span.kind"

# A member of the event, and the attributes that tell it, the first that is there.
MEMBERS: Final[Mapping[str, tuple[str, ...]]] = {
    # The provider's answer knows the exact model; a failed request has none.
    "model": (
        *("gen_ai.response.model", "llm.response.model_name", "gen_ai.request.model"),
        *("llm.model_name", "llm.request.model_name", "embedding.model_name"),
    ),
    "provider": ("gen_ai.provider.name", "gen_ai.system", "llm.provider", "llm.system", "llm.vendor"),
    "input_tokens": (
        *("gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens"),
        *("llm.usage.prompt_tokens", "llm.token_count.prompt"),
    ),
    "output_tokens": (
        *("gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens"),
        *("llm.usage.completion_tokens", "llm.token_count.completion"),
    ),
    "total_tokens": ("gen_ai.usage.total_tokens", "llm.usage.total_tokens", "llm.token_count.total"),
    "service_tier": (
        *("openai.response.service_tier", "gen_ai.openai.response.service_tier"),
        *("openai.request.service_tier", "gen_ai.openai.request.service_tier"),
    ),
}
# A unit of the event's `usage`, by its name in the price package.
UNITS: Final[Mapping[str, tuple[str, ...]]] = {
    "cache_read_tokens": (
        *("gen_ai.usage.cache_read.input_tokens", "gen_ai.usage.cache_read_input_tokens"),
        *("llm.token_count.prompt_details.cache_read", "llm.token_count.prompt_details.cache_input"),
    ),
    "cache_write_tokens": (
        *("gen_ai.usage.cache_write.input_tokens", "gen_ai.usage.cache_creation.input_tokens"),
        *("gen_ai.usage.cache_creation_input_tokens", "llm.token_count.prompt_details.cache_write"),
    ),
    "output_reasoning_tokens": (
        *("gen_ai.usage.reasoning.output_tokens", "gen_ai.usage.reasoning_tokens"),
        *("llm.usage.reasoning_tokens", "llm.token_count.completion_details.reasoning"),
    ),
    "input_audio_tokens": ("gen_ai.usage.audio.input_tokens", "llm.token_count.prompt_details.audio"),
    "output_audio_tokens": ("gen_ai.usage.audio.output_tokens", "llm.token_count.completion_details.audio"),
    "cache_audio_read_tokens": ("gen_ai.usage.audio.cache_read.input_tokens",),
    "input_image_tokens": ("gen_ai.usage.image.input_tokens",),
    "output_image_tokens": ("gen_ai.usage.image.output_tokens",),
    "cache_image_read_tokens": ("gen_ai.usage.image.cache_read.input_tokens",),
}
ERROR_TYPE: Final = "error.type"
STATUS_CODE: Final = ("http.response.status_code", "http.status_code")
# In seconds.
TIME_TO_FIRST_CHUNK: Final = "gen_ai.response.time_to_first_chunk"
# In the event of a span that the SDK makes of an exception.
EXCEPTION_EVENT: Final = "exception"
EXCEPTION_TYPE: Final = "exception.type"

# Prompts and answers, which are stored with OTLP_KEEP_CONTENT=true alone: names, and beginnings of the names of their parts.
PROMPTS: Final = (
    *("gen_ai.input.messages", "gen_ai.system_instructions", "gen_ai.prompt", "llm.input_messages", "llm.prompts"),
    *("input.value", "embedding.embeddings"),
)
ANSWERS: Final = ("gen_ai.output.messages", "gen_ai.completion", "llm.output_messages", "llm.choices", "output.value")

# Names of providers in the conventions, and the price package's own. Others are stored in lower case, as they are.
PROVIDERS: Final[Mapping[str, str]] = {
    "aws.bedrock": "aws",
    "az.ai.inference": "azure",
    "az.ai.openai": "azure",
    "azure.ai.inference": "azure",
    "azure.ai.openai": "azure",
    "gcp.gemini": "google",
    "gcp.gen_ai": "google",
    "gcp.vertex_ai": "google",
    "gemini": "google",
    "mistral_ai": "mistral",
    "mistralai": "mistral",
    "moonshot": "moonshotai",
    "together_ai": "together",
    "vertex_ai": "google",
    "vertexai": "google",
    "x_ai": "x-ai",
    "xai": "x-ai",
}
UNKNOWN: Final = "unknown"

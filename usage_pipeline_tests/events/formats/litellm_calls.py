"""Requests through the real LiteLLM, whose answers are its own mocks, logged by its own generic API callback.

It runs with LiteLLM, and without this project:

    LITELLM_LOCAL_MODEL_COST_MAP=True uv run --no-project \\
      --with litellm==1.110.2 --with fastapi --with orjson --with soundfile \\
      python usage_pipeline_tests/events/formats/litellm_calls.py URL TOKEN FORMAT LOGGED.json

URL gets the logs; LOGGED.json has what LiteLLM hands to any callback, by the name of the request: what should have come. So the
same program tests a service and, with any URL, records the payloads of `usage_pipeline_tests/events/formats/litellm.json`.
"""

import asyncio
import json
import sys
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import litellm
from litellm import ModelResponse, Router, Usage
from litellm.caching.caching import Cache
from litellm.integrations.custom_logger import CustomLogger
from litellm.integrations.generic_api.generic_api_callback import GenericAPILogger
from litellm.litellm_core_utils.safe_json_dumps import safe_dumps

MESSAGES = [{"role": "user", "content": "What is a ledger?"}]
# What LiteLLM's proxy knows of a request by its virtual key.
OF_A_KEY = {
    "tags": ["prod", "project:apollo"],
    "user_api_key_hash": "88dc28d0f030c55ed4ab77ed8faf098196cb1c05df778539800c9f1243fe6b4b",
    "user_api_key_alias": "chat",
    "user_api_key_team_alias": "search",
    "user_api_key_team_id": "team-7",
    "user_api_key_user_id": "owner-1",
}


class Logged(CustomLogger):
    """What LiteLLM hands to its callbacks, under the name of the request that runs."""

    def __init__(self) -> None:
        super().__init__()
        self.name = ""
        self.payloads: dict[str, list[Any]] = {}

    async def async_log_success_event(self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:
        self.payloads.setdefault(self.name, []).append(json.loads(safe_dumps(kwargs["standard_logging_object"])))

    async_log_failure_event = async_log_success_event


def answer(model: str, entered: int, left: int, **usage: Any) -> ModelResponse:
    message = {"message": {"role": "assistant", "content": "A book."}, "finish_reason": "stop", "index": 0}
    counts = Usage(prompt_tokens=entered, completion_tokens=left, total_tokens=entered + left, **usage)
    return ModelResponse(model=model, choices=[message], usage=counts)


async def streamed(**request: Any) -> None:
    async for _ in await litellm.acompletion(stream=True, stream_options={"include_usage": True}, **request):
        pass


async def main(url: str, token: str, log_format: str, file: Path) -> None:
    headers = {"Authorization": f"Bearer {token}"}
    sender = GenericAPILogger(
        endpoint=url, headers=headers, log_format=log_format, max_retries=5, retry_delay=0.1, flush_interval=3600
    )
    logged = Logged()
    litellm.callbacks = [sender, logged]

    async def call(name: str, request: Awaitable[Any], records: int = 1) -> None:
        logged.name = name
        try:
            await request
        except Exception as error:
            print(name, type(error).__name__, file=sys.stderr)
        # LiteLLM logs in the background.
        for _ in range(600):
            if len(logged.payloads.get(name, ())) >= records:
                return
            await asyncio.sleep(0.05)
        raise TimeoutError(f"{name}: expected {records} records, came {logged.payloads.get(name)}")

    def completion(model: str, mock: Any, **more: Any) -> Awaitable[Any]:
        return litellm.acompletion(model=model, messages=MESSAGES, mock_response=mock, api_key="sk-none", **more)

    await call("success", completion("gpt-4o", "A book.", metadata=OF_A_KEY, user="end-user-1"))
    await call("failure", completion("gpt-4o", "litellm.RateLimitError"))
    await call("stream", streamed(model="gpt-4o", messages=MESSAGES, mock_response="A book.", api_key="sk-none"))
    cached = answer(
        "gpt-4o",
        1_000,
        50,
        prompt_tokens_details={"cached_tokens": 800},
        completion_tokens_details={"reasoning_tokens": 20},
    )
    await call("cached_tokens", completion("gpt-4o", cached))
    written = answer(
        "claude-sonnet-4-5",
        1_000,
        50,
        prompt_tokens_details={
            "cached_tokens": 700,
            "cache_creation_tokens": 200,
            "cache_creation_token_details": {"ephemeral_5m_input_tokens": 150, "ephemeral_1h_input_tokens": 50},
        },
        cache_creation_input_tokens=200,
        cache_read_input_tokens=700,
        server_tool_use={"web_search_requests": 2},
    )
    await call("cache_writes", completion("anthropic/claude-sonnet-4-5", written))
    await call("without_price", completion("openai/our-own-model", "A book."))
    await call("free", completion("openai/free", "A book.", input_cost_per_token=0.0, output_cost_per_token=0.0))
    await call(
        "embedding", litellm.aembedding(model="text-embedding-3-small", input=["ledger"], mock_response=[0.1, 0.2])
    )
    await call("responses", litellm.aresponses(model="gpt-4o", input="What is a ledger?", mock_response="A book."))
    await call("bedrock", completion("bedrock/us.anthropic.claude-sonnet-4-20250514-v1:0", "A book."))
    await call("vertex", completion("vertex_ai/gemini-2.5-pro", "A book."))
    router = Router(
        model_list=[
            {"model_name": "fast", "litellm_params": {"model": "gpt-4o", "mock_response": "litellm.RateLimitError"}},
            {"model_name": "small", "litellm_params": {"model": "gpt-4o-mini", "mock_response": "A book."}},
        ],
        num_retries=2,
        fallbacks=[{"fast": ["small"]}],
        retry_after=0,
    )
    # The proxy gives all tries of a request one id.
    call_id = "0f0e1c2a-6f2b-4b7e-9d5c-3a1f5b8e7c11" if url.endswith("/record") else None
    ids = {"litellm_call_id": call_id} if call_id else {"litellm_call_id": litellm._uuid.uuid4().hex}
    await call("retries", router.acompletion(model="fast", messages=MESSAGES, **ids), records=4)
    litellm.cache = Cache(type="local")
    await call("cache_filled", completion("gpt-4o", "A page.", caching=True))
    await call("cache_hit", completion("gpt-4o", "A page.", caching=True))
    await sender.flush_queue()
    file.write_text(json.dumps(logged.payloads, indent=1))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4])))

"""A server that answers as OpenAI's API reference says: https://platform.openai.com/docs/api-reference"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import Any

CREATED = 1_790_000_000
CHAT_USAGE = {
    "prompt_tokens": 1_000,
    "completion_tokens": 50,
    "total_tokens": 1_050,
    "prompt_tokens_details": {"cached_tokens": 800, "audio_tokens": 0},
    "completion_tokens_details": {
        "reasoning_tokens": 20,
        "audio_tokens": 0,
        "accepted_prediction_tokens": 0,
        "rejected_prediction_tokens": 0,
    },
}
RESPONSE_USAGE = {
    "input_tokens": 300,
    "input_tokens_details": {"cached_tokens": 100},
    "output_tokens": 40,
    "output_tokens_details": {"reasoning_tokens": 10},
    "total_tokens": 340,
}
EMBEDDING_USAGE = {"prompt_tokens": 7, "total_tokens": 7}
MODEL, EMBEDDING_MODEL, UNKNOWN_MODEL = "gpt-4o-2024-08-06", "text-embedding-3-small", "gpt-none"


@contextmanager
def openai_server() -> Iterator[str]:
    """Its base URL, until the end of the block. Of the model `gpt-none` it has had too many requests."""
    numbers = count(1)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            number = next(numbers)
            if body["model"] == UNKNOWN_MODEL:
                self._answer(
                    429, {"error": {"message": "Slow down.", "type": "requests", "code": "rate_limit_exceeded"}}
                )
            elif body.get("stream"):
                self._stream(number, is_told=body.get("stream_options", {}).get("include_usage", False))
            else:
                self._answer(200, _ANSWERS[self.path](number))

        def log_message(self, *args: object) -> None:
            pass

        def _answer(self, status: int, document: dict[str, Any]) -> None:
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _stream(self, number: int, *, is_told: bool) -> None:
            chunk = {**_common(number), "object": "chat.completion.chunk"}
            chunks = [
                {**chunk, "choices": [{"index": 0, "delta": {"content": word}, "finish_reason": end}]}
                for word, end in (("A", None), (" book.", "stop"))
            ]
            if is_told:
                chunks.append({**chunk, "choices": [], "usage": CHAT_USAGE})
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            for data in (*map(json.dumps, chunks), "[DONE]"):
                self.wfile.write(f"data: {data}\n\n".encode())

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def _common(number: int) -> dict[str, Any]:
    return {"id": f"chatcmpl-{number}", "created": CREATED, "model": MODEL, "service_tier": "default"}


def _chat(number: int) -> dict[str, Any]:
    message = {"role": "assistant", "content": "A book.", "refusal": None}
    return {
        **_common(number),
        "object": "chat.completion",
        "choices": [{"index": 0, "finish_reason": "stop", "logprobs": None, "message": message}],
        "usage": CHAT_USAGE,
    }


def _response(number: int) -> dict[str, Any]:
    content = [{"type": "output_text", "text": "A book.", "annotations": []}]
    return {
        "id": f"resp_{number}",
        "object": "response",
        "created_at": CREATED,
        "status": "completed",
        "model": MODEL,
        "output": [{"type": "message", "id": "msg_1", "status": "completed", "role": "assistant", "content": content}],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": RESPONSE_USAGE,
    }


def _embeddings(number: int) -> dict[str, Any]:
    data = [{"object": "embedding", "index": 0, "embedding": [0.1, 0.2]}]
    return {"object": "list", "model": EMBEDDING_MODEL, "data": data, "usage": EMBEDDING_USAGE}


_ANSWERS = {"/v1/chat/completions": _chat, "/v1/responses": _response, "/v1/embeddings": _embeddings}

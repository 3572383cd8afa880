"""Answers of OTLP/HTTP in the encoding of the request: its response, and google.rpc.Status for what is refused.

https://opentelemetry.io/docs/specs/otlp/#otlphttp-response
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from google.rpc import code_pb2, status_pb2
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from starlette.responses import Response

from usage_pipeline.api.ingest.bodies import JSON
from usage_pipeline.api.problems import RETRY_AFTER_SECONDS, Problem, RefusalResponse, noted, of_busy_redis
from usage_pipeline.storage.quick_redis import RedisBusy

PROTOBUF = ("application/x-protobuf",)
MEDIA_TYPES = (*PROTOBUF, *JSON)
# An exporter sends a request again for 429, 502, 503 and 504, and never for another status.
_AGAIN = {408: 503}
_CODES: Mapping[int, int] = {
    400: code_pb2.INVALID_ARGUMENT,
    401: code_pb2.UNAUTHENTICATED,
    403: code_pb2.PERMISSION_DENIED,
    413: code_pb2.OUT_OF_RANGE,
    415: code_pb2.INVALID_ARGUMENT,
    422: code_pb2.INVALID_ARGUMENT,
    429: code_pb2.RESOURCE_EXHAUSTED,
    503: code_pb2.UNAVAILABLE,
}


def success(is_json: bool, rejected_spans: int, message: str) -> Response:
    """The answer to a request that was taken: all of it, or with so many spans rejected, or with a hint in the message."""
    if is_json:
        partial = {"rejectedSpans": str(rejected_spans), "errorMessage": message}
        return Response(json.dumps({"partialSuccess": partial} if message else {}), media_type=JSON[0])
    answer = ExportTraceServiceResponse()
    if message:
        answer.partial_success.rejected_spans = rejected_spans
        answer.partial_success.error_message = message
    return Response(answer.SerializeToString(), media_type=PROTOBUF[0])


class OtlpRoute(APIRoute):
    """A route whose problems are answered as the protocol wants it."""

    def get_route_handler(self) -> Callable[[Request], Any]:
        handle = super().get_route_handler()

        async def handle_or_refuse(request: Request) -> Response:
            try:
                return await handle(request)
            except Problem as problem:
                return _refusal(request, problem)
            except RedisBusy as error:
                return _refusal(request, of_busy_redis(error))
            except RequestValidationError as error:
                return _refusal(request, Problem(400, "invalid-request", str(error)))

        return handle_or_refuse


def _refusal(request: Request, problem: Problem) -> Response:
    message = noted(request, problem)
    headers = dict(problem.headers)
    status = _AGAIN.get(problem.status, problem.status)
    if status == 503:
        headers.setdefault("Retry-After", str(RETRY_AFTER_SECONDS))
    code = _CODES.get(status, code_pb2.UNKNOWN)
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() in PROTOBUF:
        text = status_pb2.Status(code=code, message=message).SerializeToString()
        return RefusalResponse(text, status, headers, PROTOBUF[0])
    return RefusalResponse(json.dumps({"code": code, "message": message}), status, headers, JSON[0])

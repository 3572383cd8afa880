"""Which refusals of the HTTP service are in the audit log, and what is known of the request."""

from dataclasses import dataclass

from fastapi import Request

from usage_pipeline.access.audit import AuditLog

STATUSES = frozenset({401, 403, 410, 429, 503})
_MOST_METHOD_CHARACTERS = 20


@dataclass(frozen=True, slots=True)
class Presented:
    """The token that a request came with, or that its session stands for.

    `is_proven`: it came with its secret. `refusal`: why it opens nothing.
    """

    token_id: str | None
    is_proven: bool = False
    refusal: str | None = None


def note_refusal(log: AuditLog, request: Request, status: int, reason: str) -> None:
    """Notes an answer, if its status is one of STATUSES."""
    if status not in STATUSES:
        return
    presented: Presented = getattr(request.state, "presented", Presented(None))
    method = "HEAD" if getattr(request.state, "is_head", False) else request.method[:_MOST_METHOD_CHARACTERS]
    log.refused(
        request.client.host if request.client else None,
        f"{method} {getattr(request.scope.get('route'), 'path', 'unmatched')}",
        status,
        presented.refusal or reason,
        token_id=presented.token_id,
        is_proven=presented.is_proven,
    )

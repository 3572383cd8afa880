"""How much memory one process of the HTTP service may take. The limits in deploy/ follow from it; a test compares them."""

from usage_pipeline.api.connections import MAX_HEAD_BYTES, MAX_UNSENT_BYTES
from usage_pipeline.settings import Settings

# Bodies that are received at once, in units of the largest; half of them of one token.
BODIES_AT_ONCE = 6
# A process at rest, and what it keeps of tokens, posts, metrics and files of pages.
AT_REST_BYTES = 200 * 2**20
# A connection: its head, as the parser and as we have it, and a piece of a body.
_PER_CONNECTION_BYTES = 2 * MAX_HEAD_BYTES
# A thread that stores: a window of a document, rows of it, and what PostgreSQL's library has of them.
_PER_THREAD_BYTES = 12 * 2**20
# The rows of large documents as PostgreSQL reads them: those of one archive are as large as it is.
_LARGE_VALUE_BYTES = 160 * 2**20
# What supervises several workers.
_SUPERVISOR_BYTES = 80 * 2**20


def most_bodies(settings: Settings) -> int:
    """Bytes of all bodies as they are sent, from their announcement until they are stored."""
    return BODIES_AT_ONCE * settings.max_gzip_size


def most_documents(settings: Settings) -> int:
    """Bytes of all documents that are being stored, once decompressed."""
    return settings.max_decompressed_bytes


def most_memory(settings: Settings, workers: int = 1) -> int:
    """Bytes of resident memory of the service at all its limits at once."""
    each = (
        AT_REST_BYTES
        + MAX_UNSENT_BYTES
        + most_bodies(settings)
        + most_documents(settings)
        + settings.max_connections * _PER_CONNECTION_BYTES
        + settings.db_pool_size * _PER_THREAD_BYTES
        + _LARGE_VALUE_BYTES
    )
    return workers * each + (_SUPERVISOR_BYTES if workers > 1 else 0)

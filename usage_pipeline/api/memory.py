"""How much memory one process of the HTTP service may take. The limits in deploy/ follow from it; a test compares them."""

from usage_pipeline.api.connections.counting import MAX_UNSENT_BYTES
from usage_pipeline.api.connections.protocol import SEND_BUFFER_BYTES
from usage_pipeline.api.connections.refusals import MAX_HEAD_BYTES
from usage_pipeline.events.ingest.model import MAX_ARCHIVE_BYTES
from usage_pipeline.settings import Settings

# Bodies that are received at once, in units of the largest; half of them of one token.
BODIES_AT_ONCE = 6
# A body as it is sent, or a document, that never waits behind larger ones.
SMALL_BYTES = 2**20
# Small bodies at once, in units of the largest of them.
_SMALL_BODIES_AT_ONCE = 16
# A document that waits for no larger one: ten thousand usual events. It is stored in seconds, a large one in up to a minute.
MEDIUM_BYTES = 8 * 2**20
# Medium documents at once, in units of the largest of them, with its copies.
_MEDIUM_DOCUMENTS_AT_ONCE = 2
# A process at rest, and what it keeps of tokens, posts, metrics and files that it sends.
AT_REST_BYTES = 200 * 2**20
# A connection: its head, as it came and as it was read, what came ahead of the answer, and a piece of a body or of an answer.
# And what the kernel has of an answer, which is in the limit of a container, too.
_PER_CONNECTION_BYTES = 3 * MAX_HEAD_BYTES + 2 * SEND_BUFFER_BYTES
# A thread that stores: a small document or a window of a large one, rows of it, and what PostgreSQL's library has of them.
_PER_THREAD_BYTES = 12 * 2**20
# A document and, of its largest item, what is decoded of it or the row that is made of it, and the copy that is sent.
COPIES = 3
# The largest item that can be in the largest document, these two times.
_LARGEST_ITEM_BYTES = (COPIES - 1) * MAX_ARCHIVE_BYTES
# What supervises several workers.
_SUPERVISOR_BYTES = 80 * 2**20


def most_bodies(settings: Settings) -> int:
    """Bytes of all bodies as they are sent, from their announcement until they are stored."""
    return BODIES_AT_ONCE * settings.max_gzip_size


def most_small_bodies() -> int:
    """Bytes of all small bodies as they are sent, beside those of the others."""
    return _SMALL_BODIES_AT_ONCE * SMALL_BYTES


def most_documents(settings: Settings) -> int:
    """Bytes of all large documents that are stored at once, decompressed, with the copies of their items."""
    return settings.max_decompressed_bytes


def most_medium_documents() -> int:
    """The same of all medium documents. Small ones need no more than a thread has anyway."""
    return _MEDIUM_DOCUMENTS_AT_ONCE * COPIES * MEDIUM_BYTES


def bytes_while_stored(size: int, settings: Settings) -> int:
    """What a document takes of the room for those of its size. One of a third of `most_documents` takes all of it."""
    return min(COPIES * size, most_documents(settings))


def most_memory(settings: Settings, workers: int = 1) -> int:
    """Bytes of resident memory of the service at all its limits at once."""
    each = (
        AT_REST_BYTES
        + MAX_UNSENT_BYTES
        + most_bodies(settings)
        + most_small_bodies()
        + most_documents(settings)
        + most_medium_documents()
        + settings.max_connections * _PER_CONNECTION_BYTES
        + settings.db_pool_size * _PER_THREAD_BYTES
        + _LARGEST_ITEM_BYTES
    )
    return workers * each + (_SUPERVISOR_BYTES if workers > 1 else 0)

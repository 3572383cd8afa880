"""No text from outside is too long for an index: at its limit, in the widest characters, all columns of the index at once."""

import psycopg

from usage_pipeline.values import MAX_ID_CHARACTERS

# PostgreSQL's limit for a row of a B-tree of pages of 8 KB. Eight bytes are the row's own head, and each column may take
# four for its length and seven to be aligned.
MOST_BYTES = 2_704
ROW_BYTES, COLUMN_BYTES = 8, 11
WIDEST_CHARACTER = 4
# Texts whose limit is another one than that of ids, with the bytes that they may have and why.
OTHER_LIMITS = {
    "ops.archive_leftovers.address": (100, "ours: table, time and random digits"),
    "ops.archives.address": (100, "ours: table, time and random digits"),
    "ops.landed_files.address": (1_033, "the longest key of an object store, below archives/"),
    "ops.landed_files.fingerprint": (200, "ours: size and time, or the tag of an object store"),
    "ops.alerts.dedupe_key": (1_000, "the name of a rule and one id"),
    **{
        f"analytics.{name}.price_version": (
            100,
            "the package and numbers; a longer one, of an earlier release, has no tiers",
        )
        for name in ("model_lookups", "model_prices")
    },
    **{
        f"stats.popular_{name}.id": (2 * 800 + 1, "provider, slash and model")
        for name in ("models", "models_by_tokens")
    },
}
DIGESTS = {"md5(": 32, "analytics.group_key(": 32}
FIXED = {"bytea": 32}
_COLUMNS = """
    select
        indrelid::regclass::text as table_name,
        indexrelid::regclass::text as index_name,
        pg_get_indexdef(indexrelid, position, true) as expression,
        format_type(atttypid, null) as type
    from pg_index
    cross join generate_series(1, indnkeyatts) as position
    join pg_attribute on attrelid = indexrelid and attnum = position
    join pg_class on pg_class.oid = indexrelid
    join pg_am on pg_am.oid = relam
    join pg_namespace on pg_namespace.oid = relnamespace
    where nspname in ('app', 'raw', 'usage', 'analytics', 'stats', 'reporting', 'ops')
      and amname = 'btree'
      and not relispartition
    order by 1, 2, position
"""


def _bytes(table: str, expression: str, type_name: str) -> int:
    for function, size in DIGESTS.items():
        if expression.startswith(function):
            return size
    if type_name == "text":
        limit, _ = OTHER_LIMITS.get(f"{table}.{expression}", (MAX_ID_CHARACTERS * WIDEST_CHARACTER, ""))
        return limit
    return FIXED.get(type_name, 16)


def test_every_row_of_an_index_fits_whatever_its_texts_are(postgres: psycopg.Connection) -> None:
    widths: dict[str, int] = {}
    found = set()
    for table, index, expression, type_name in postgres.execute(_COLUMNS):
        found.add(f"{table}.{expression}")
        widths[index] = widths.get(index, ROW_BYTES) + COLUMN_BYTES + _bytes(table, expression, type_name)
    assert "analytics.usage_user_daily_group_idx" in widths
    assert {index: width for index, width in widths.items() if width > MOST_BYTES} == {}
    assert set(OTHER_LIMITS) <= found, "each of these is in an index"


def test_a_digest_in_an_index_takes_what_is_said_here(postgres: psycopg.Connection) -> None:
    wide = "\U00020000" * MAX_ID_CHARACTERS
    [(key, md5)] = postgres.execute(
        "select analytics.group_key(%(wide)s, %(wide)s, %(wide)s, %(wide)s), md5(%(wide)s)", {"wide": wide}
    ).fetchall()
    assert (len(key), len(md5)) == tuple(DIGESTS[name] for name in ("analytics.group_key(", "md5("))

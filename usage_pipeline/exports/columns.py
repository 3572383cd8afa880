"""The columns of a table that leaves the database: their names, kinds and descriptions."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal

from pydantic.alias_generators import to_camel

# A page of a thousand rows asks for each name a thousand times.
_camel = cache(to_camel)
Kind = Literal["text", "count", "money", "units", "time", "day", "number"]


@dataclass(frozen=True, slots=True)
class Column:
    """A column of an answer. `name` is its name in the query; JSON, CSV and Parquet have it in camelCase, or as `member`."""

    name: str
    kind: Kind
    description: str
    example: str | int | float | Mapping[str, int]
    is_nullable: bool = False
    member: str = ""

    @property
    def shown_name(self) -> str:
        return self.member or _camel(self.name)

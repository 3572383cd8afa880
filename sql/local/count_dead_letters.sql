-- Dead letters per family that hold a text which only one writer wrote, in their key or in their value.
select family, count(*)
from ops.dead_letters
where position(%(text)s::bytea in source_key) > 0
   or position(%(text)s::bytea in raw) > 0
group by family;

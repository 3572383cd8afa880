-- Sets aside what is stored of a window whose events were all dropped, before others are added to it.
insert into {kept} ({window}, {key}, {values})
select {window}, {key}, {values}
from {table}
where {window} = %(window)s;

-- An answer: the columns of each group, its metrics, and with a comparison those of the other days.
select {columns}
from ({asked}) as asked
{compared}
order by {order}
limit %(most)s
offset %(skipped)s

-- The running total that goes with it, and what it is then.
update {totals}
set {field} = {field} + %(amount)s,
    updated_at = now()
where ({keys}) = ({values})
returning {field};

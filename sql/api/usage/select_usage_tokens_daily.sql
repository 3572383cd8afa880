-- Usage per day and token of a range of days, from one row on, in the order of the primary key.
select usage_date, token_id, usage_count, last_used_at
from usage.token_daily
where usage_date >= %(first)s
and usage_date < %(until)s
and (%(token_id)s::text is null or token_id = %(token_id)s)
and (
    %(after_usage_date)s::date is null
    or (usage_date, token_id) > (%(after_usage_date)s, %(after_token_id)s::text)
)
order by usage_date, token_id
limit %(most)s

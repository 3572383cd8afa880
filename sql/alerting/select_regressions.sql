-- Open counter regressions in one row, or none: how many (of very many only so many), and the latest.
select
    (
        select count(*)
        from (
            select regression_id
            from ops.counter_regressions
            where accepted_at is null
            limit %(most)s
        ) as open
    ) as count,
    latest.merchant_id,
    latest.metric_type,
    latest.date as day
from ops.counter_regressions as latest
where latest.accepted_at is null
order by latest.regression_id desc
limit 1;

-- The oldest stored day of usage and of issue statistics that lies before the start of their partitions, or null.
-- Usage is counters, merchants and events, whichever has the oldest.
select
    least(
        (select min(usage_date) from ops.touched_days where usage_date < %(usage_start)s),
        (select min(date) from usage.merchant_usage where date < %(usage_start)s),
        (select min(usage_date) from analytics.usage_daily where usage_date < %(usage_start)s)
    ) as usage_day,
    (
        select min(date)
        from stats.daily_issue_stats
        where date < %(stats_start)s
    ) as stats_day;

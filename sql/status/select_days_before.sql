-- The oldest stored day of usage and of issue statistics that lies before the start of their partitions, or null.
select
    (
        select min(usage_date)
        from ops.touched_days
        where usage_date < %(usage_start)s
    ) as usage_day,
    (
        select min(date)
        from stats.daily_issue_stats
        where date < %(stats_start)s
    ) as stats_day;

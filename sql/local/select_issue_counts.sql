-- What the statistics of some days count, less what the issues and comments of others in these days account for.
select
    coalesce(sum(stats.created_count), 0)::bigint - (
        select count(*)
        from app.issues
        where id not like %(issue_ids)s
          and created_at >= %(first)s
          and created_at < %(until)s
    ) as created_count,
    coalesce(sum(stats.resolved_count), 0)::bigint - (
        select count(*)
        from app.issues
        where id not like %(issue_ids)s
          and resolved_at >= %(first)s
          and resolved_at < %(until)s
    ) as resolved_count,
    coalesce(sum(stats.comment_count), 0)::bigint - (
        select count(*)
        from app.comments
        where issue_id not like %(issue_ids)s
          and created_at >= %(first)s
          and created_at < %(until)s
    ) as comment_count
from stats.daily_issue_stats as stats
where stats.date between %(first_day)s and %(last_day)s;

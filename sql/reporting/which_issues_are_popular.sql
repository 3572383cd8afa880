-- Which issues of the last seven days are the most popular?
select
    ranking_date,
    rank,
    id,
    title,
    score as views_and_comments
from reporting.current_rankings
where ranking = 'issues'
order by rank;

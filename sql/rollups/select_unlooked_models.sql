-- Models that a price version of the package was not asked for yet, among those of one window that was just rolled up.
select distinct provider, model
from {table} as rolled
where {window} = %(window)s
  and not exists (
    select 1
    from analytics.model_lookups as lookup
    where lookup.price_version = %(price_version)s
      and lookup.provider = rolled.provider
      and lookup.model = rolled.model
  )
order by provider, model;

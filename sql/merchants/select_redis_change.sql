-- How Redis changed since a moment, as an odometer shows it: that of the day's merchant counters, or any where there is none.
select
    o.change,
    -- What this counter had when Redis came back, where it is the only one of its day and the odometer counts nothing else.
    case
        when o.family = 'merchant'
         and o.usage_date = %(day)s
         and o.change = 'rewound'
         and o.forgotten + l.base = %(stored_value)s
         and (select count(*) from usage.merchant_usage where date = %(day)s) = 1
        then l.base::bigint
    end as base
from ops.odometers as o
left join ops.odometer_lives as l using (family, usage_date, life)
where o.changed_at > %(since)s
  and (
      (o.family = 'merchant' and o.usage_date = %(day)s)
      or not exists (
          select
          from ops.odometers as own
          where own.family = 'merchant'
            and own.usage_date = %(day)s
      )
  )
order by array_position(array['rewound', 'returned', 'emptied'], o.change)
limit 1;

-- The channels that have got a report, at all or since a moment.
select channel
from ops.report_deliveries
where grain = %(grain)s
  and window_start = %(window_start)s
  and (%(since)s::timestamptz is null or sent_at >= %(since)s)

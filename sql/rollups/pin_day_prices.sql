-- Pins a day to a price version, unless it is pinned already: prices that come later never change it by themselves.
insert into analytics.day_prices (usage_date, day_start, day_end, price_version)
values (%(usage_date)s, %(day_start)s, %(day_end)s, %(price_version)s)
on conflict (usage_date) do nothing;

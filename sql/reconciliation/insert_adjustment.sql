-- What somebody added to a counter of a day or took off it, as a raw row: the day is made from these.
insert into {raw} (usage_date, batch_id, source_key, {names})
values (%(usage_date)s, %(batch_id)s, '', {values});

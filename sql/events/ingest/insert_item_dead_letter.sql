-- Keeps a rejected item of a landed file. A file that is read again after a crash adds none twice; of two equal lines each is kept.
insert into ops.dead_letters (family, source_key, position, reason, raw, raw_format, claimed_at)
values (%(family)s, %(source_key)s, %(position)s, %(reason)s, %(raw)s, 'string', %(read_at)s)
on conflict (md5(source_key), md5(raw), coalesce(position, -1)) where batch_id is null do nothing;

-- A link that opens one session for a token, within so many hours.
insert into usage.invitations (invitation_hash, token_id, expires_at)
values (%(invitation_hash)s, %(token_id)s, now() + make_interval(hours => %(hours)s))
returning expires_at;

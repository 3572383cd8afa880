-- The record of an erasure; the id is not in it, only a salted proof until it is finished.
insert into ops.erasures (pseudonym, salt, proof)
values (%(pseudonym)s, %(salt)s, %(proof)s)
returning erasure_id;

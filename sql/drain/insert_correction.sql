-- Notes what somebody put right, in the transaction that makes it count.
insert into ops.corrections (corrected_by, reason, subject, before, after)
values (%(corrected_by)s, %(reason)s, %(subject)s, %(before)s, %(after)s);

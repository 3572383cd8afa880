-- Takes an event out, and keeps why.
select outcome, refusal
from {correct}(%(event_id)s, null, null, %(corrected_by)s, %(reason)s, %(oldest)s, %(oldest_by)s{binding});

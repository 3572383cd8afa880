"""What people put right in usage events: taken out, replaced, conflicts decided. `ops.correct_event` does it with a note."""

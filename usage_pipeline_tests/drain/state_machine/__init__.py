"""Random schedules of writers, drainers, crashes and fail-overs, with the books that must balance."""

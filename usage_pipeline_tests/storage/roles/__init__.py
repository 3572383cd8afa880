"""The roles of a prepared server, each in a session of its own: what it may do, and what a hostile one is refused."""

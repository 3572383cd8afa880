"""Dead letters: of keys, of items and of single members; their replays, as they are and with members set."""

"""The landing folder: files of events, each read once, and replays of what was refused in them."""

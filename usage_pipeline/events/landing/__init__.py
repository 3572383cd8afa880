"""The landing folder: files of events, each read once, and replays of items that were refused in them."""

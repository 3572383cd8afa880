"""The rules of usage events, and how a batch is stored, each event once. HTTP, files and replays use the same path."""

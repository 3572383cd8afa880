"""What clients send, its rules, and how a batch is stored, each event once. One path for HTTP, files and replays."""

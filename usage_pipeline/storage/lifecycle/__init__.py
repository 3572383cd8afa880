"""The daily run over old partitions: made ahead, compressed or archived, dropped; native or by TimescaleDB."""

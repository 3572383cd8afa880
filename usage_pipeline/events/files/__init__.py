"""Files of events: which kinds are read, how each is unpacked and split into rows, and which format the rows have.

What a row of another format means is in `events/formats/`; where files lie is the matter of `events/landing/` and the commands.
"""

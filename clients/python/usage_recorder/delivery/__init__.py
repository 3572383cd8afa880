"""How a record gets to Redis and counts once: numbered sends, what waits to be sent again, and who sends it.

What a record consists of is outside, in commands.py and script.py.
"""

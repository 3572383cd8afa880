"""Messages of alerts: which are due for which channel (`due.py`), what they say (`messages.py`), and how they go out.

`dispatch.py` puts these together. Reports use `channels.py` as well.
"""

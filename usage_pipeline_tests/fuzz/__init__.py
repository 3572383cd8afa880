"""What strangers can send, changed at random: it is stored or refused with a reason, in bounded time and memory.

In small in `make test`; `make fuzz` lets Atheris look for hours at each of them, guided by the lines that an input reaches.
"""

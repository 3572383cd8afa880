"""Reports of a week or a month: their numbers, the files and the picture made of them, and who gets them.

The numbers are answers to questions of `explore/`. When a report is made is in `defs/`.
"""

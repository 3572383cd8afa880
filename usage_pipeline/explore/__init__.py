"""Questions about usage (contracts §11): what can be grouped and measured, from which roll-up it is answered, and the query.

Pure, and the one definition that the API, the page, files and the docs share.
"""

"""Posts of the external API (contracts §4): fetches and stores them. While the API is away, a fallback replaces a post.

`api/external/` serves them over HTTP.
"""

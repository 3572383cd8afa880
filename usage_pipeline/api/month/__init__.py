"""`/month`: the cost of a month by team, as a page that needs no JavaScript; its numbers are those of exploring."""

"""`GET /api/budgets` over HTTP, as the service's own role of PostgreSQL."""

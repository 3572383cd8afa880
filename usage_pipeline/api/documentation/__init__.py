"""`/docs` and `/openapi.json`: what describes the API, and Swagger UI, which shows it. Its files come with a package."""

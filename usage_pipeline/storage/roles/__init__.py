"""The roles of the server: what each may do in this database, and what nobody else may. Set after each migration."""

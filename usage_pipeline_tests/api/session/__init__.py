"""Sign-in of people over HTTP: invitations, cookies, proxies; each against a running service."""

"""Commands that decide who is let in: tokens for programs, invitations for people."""

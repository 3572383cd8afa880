"""Tests of the pages: links, what is written from the code, and the README's length."""

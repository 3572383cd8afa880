"""Headers that every answer has."""

"""What is made again because its source changed: issue statistics and rankings of past dates."""

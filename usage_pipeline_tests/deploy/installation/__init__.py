"""What is installed: by `make setup` in a checkout, by a wheel, and in the image."""

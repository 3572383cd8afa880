"""What is done to servers, processes and clocks while the drain works."""

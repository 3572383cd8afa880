"""What tests of several rooms share: servers, data, clocks, and waiting for a condition."""

"""What the tests of the whole system drive: Dagster, the services of compose, a browser, clients that are killed."""

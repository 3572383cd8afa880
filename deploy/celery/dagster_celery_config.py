"""Settings of a Celery worker: `dagster_celery.app` looks for a module of this name on the PYTHONPATH.

Instead of `dagster-celery worker start -y FILE`: that one dies of SIGTERM without waiting for its runs, writes the broker's
password to a file, and takes amqp on localhost when the file is not nested as it expects.
"""

import os

# Without them the worker must not start: its default would be a broker that nobody uses.
broker_url = os.environ["DAGSTER_CELERY_BROKER_URL"]
result_backend = os.environ["DAGSTER_CELERY_BACKEND_URL"]
broker_connection_retry_on_startup = True

# A worker takes a run when it has a process for it. One that it had put aside would wait although others are idle, and come
# back an hour after the worker was killed, when Dagster has long retried it.
worker_disable_prefetch = True
worker_prefetch_multiplier = 1
worker_max_tasks_per_child = 100
# Loaded once, before the worker forks: else the first run of each process would take seconds longer.
imports = ["usage_pipeline.definitions"]
# Notes with the result which worker it was.
result_extended = True
# Processes keep what libraries log; `--loglevel` decides.
worker_hijack_root_logger = False

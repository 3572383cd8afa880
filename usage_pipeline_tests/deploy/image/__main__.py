"""Says in one line why no image can be built here, and ends with status 2 then."""

import sys

from usage_pipeline_tests.deploy.image.engine import what_is_missing

if missing := what_is_missing():
    sys.stderr.write(f"make image: {missing}\n")
    sys.exit(2)

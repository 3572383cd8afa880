"""The process that fuzzes one parser: python -m usage_pipeline_tests.fuzz.guided PARSER [options of libFuzzer].

__main__.py runs it. Atheris is installed by `make fuzz` only.
"""

import sys

import atheris

# What is imported here tells the fuzzer which of its lines an input reached.
with atheris.instrument_imports(include=["usage_pipeline", "usage_pipeline_tests"]):
    from usage_pipeline_tests.fuzz.parsers import PARSERS

if __name__ == "__main__":
    name = sys.argv.pop(1)
    atheris.Setup(sys.argv, PARSERS[name])
    atheris.Fuzz()

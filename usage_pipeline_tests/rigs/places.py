"""Where files are that tests read: the project's own, and the real data beside it."""

from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
DOCS = PROJECT / "docs"
REAL_DATA = PROJECT.parent / "shared" / "data"
REAL_TRACE = REAL_DATA / "azure_llm_trace_code_2023.csv"
REAL_ISSUES = REAL_DATA / "github_issues_jest.csv"

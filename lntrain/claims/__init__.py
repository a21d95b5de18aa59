"""Every claim of theory.md as a runnable check: `lntrain-claims`, or `python scripts/claims.py`."""

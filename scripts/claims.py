"""Every claim of theory.md as a check: `python scripts/claims.py [--full] [--only NAME] [--seed N]`."""

from lntrain.claims.main import main

if __name__ == "__main__":
    main()

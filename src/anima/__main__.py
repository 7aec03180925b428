"""`python -m anima` is the `anima` command."""

from anima.app.cli import main

if __name__ == "__main__":
    raise SystemExit(main())

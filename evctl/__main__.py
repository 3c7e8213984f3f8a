"""`python -m evctl`."""

from evctl.cli import main

if __name__ == "__main__":
    main()

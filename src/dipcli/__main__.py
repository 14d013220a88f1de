"""`python -m dipcli` is `dip`."""

from dipcli.cli import main

if __name__ == "__main__":
    main()

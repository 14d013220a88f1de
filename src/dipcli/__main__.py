"""`python -m dipcli` is `dip`."""

from dipcli.cli.app import main

if __name__ == "__main__":
    main()

"""`python -m ckptgrow` is the same as `ckptgrow`."""

from ckptgrow.cli import main

if __name__ == "__main__":
    main()

"""`python -m p2v`."""

from p2v.cli import main

main()

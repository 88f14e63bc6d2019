"""``python -m steadydepth``: the commands where the script is not on the path."""

from steadydepth.cli import main

if __name__ == "__main__":
    main()

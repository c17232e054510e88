"""`python -m foretrain`: the command line, as the script `foretrain` runs it."""

from foretrain.verbs.app import main

if __name__ == "__main__":
    main()

"""The command line, one file per command. Thin: it calls, it does not compute."""

"""The command line: the command `led-corpus`, and one script per task. Workers need nothing that is defined
here."""

"""The command ``sga-monai``: each command parses its options, calls one function and prints."""

"""One file a command: parse, call the package, print. Heavy imports happen inside the commands.

What several commands share begins with an underscore.
"""

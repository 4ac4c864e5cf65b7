"""The commands, each in a file of its own: parse, call the package, print. Heavy imports happen inside the commands.

Names of files that several commands share begin with an underscore.
"""

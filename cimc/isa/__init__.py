"""Programs for compute-in-memory tiles: instruction table, text, static checks."""

from cimc.isa.printer import comment, print_program
from cimc.isa.text import load, parse, save

__all__ = ["comment", "load", "parse", "print_program", "save"]

"""The graph IR; see SPEC.md for the language."""

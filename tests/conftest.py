"""One profile for all random tests: the same cases in each run, so that a change decides
whether the suite passes. `--hypothesis-profile=explore` draws new ones."""

from hypothesis import settings

settings.register_profile("same", derandomize=True, deadline=None)
settings.register_profile("explore", derandomize=False, deadline=None, print_blob=True)
settings.load_profile("same")

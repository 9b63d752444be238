"""What every test shares: hypothesis without deadlines, for a busy machine is no failure."""

from hypothesis import settings

settings.register_profile("skiagram", deadline=None, print_blob=True)
settings.load_profile("skiagram")

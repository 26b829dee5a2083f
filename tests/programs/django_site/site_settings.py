"""The recipe's settings, and those that every Django site must have."""

from settings import LOGGING as LOGGING

SECRET_KEY = "not secret: for tests only"
DEBUG = True  # so that the reloader says what it does
ROOT_URLCONF = "urls"
USE_TZ = True

"""The recipe's settings, and those that Django requires."""

from settings import LOGGING as LOGGING

SECRET_KEY = "not secret: for tests only"
DEBUG = True  # the reloader then reports what it does
ROOT_URLCONF = "urls"
USE_TZ = True

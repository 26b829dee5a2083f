"""Builds the package. Its settings are in setup.cfg; an sdist contains what the tests need, too."""

from setuptools import setup
from setuptools.command.sdist import sdist


class SdistWithTests(sdist):
    """Adds the files that setuptools includes only when a MANIFEST.in names them."""

    def make_distribution(self) -> None:
        """Write the archive."""
        self.filelist.include("logging.ini")
        self.filelist.recursive_include("tests", "*")
        self.filelist.global_exclude("*.py[cod]")
        self.filelist.remove_duplicates()
        super().make_distribution()


setup(cmdclass={"sdist": SdistWithTests})

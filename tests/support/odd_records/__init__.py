"""Record files of every format made up for tests, some rows odd and some wrong, which is known beforehand."""

"""Shared by tests: collectors, peers and servers to run, sample data, and types of fixtures."""

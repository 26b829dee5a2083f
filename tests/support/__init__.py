"""What tests share: collectors, peers and servers to run, samples, and the types of fixtures."""

"""A local AWS, a local DNS and the function under `cargo lambda watch`: for `make run` and for tests/e2e."""

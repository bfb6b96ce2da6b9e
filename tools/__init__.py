"""Deploying to AWS, and looking whether it works: `make deploy`, `make policies`, `make verify`."""

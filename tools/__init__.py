"""Deploying to AWS: `make deploy`, `make policies`."""

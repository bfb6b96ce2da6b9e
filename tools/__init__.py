"""Deploying to AWS, and looking whether it works: `make deploy`, `make package`, `make verify`."""

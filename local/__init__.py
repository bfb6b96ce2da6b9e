"""A local AWS with a function, a database behind a load balancer, and who writes to it."""

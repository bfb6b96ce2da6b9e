"""What the function relies on of AWS, as checks that run on AWS itself and on what stands in for it."""

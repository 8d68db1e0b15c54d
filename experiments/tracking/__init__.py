"""What is kept of a run, and how it comes into MLflow."""

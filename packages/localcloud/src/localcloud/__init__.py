"""The local EC2: an API server whose instances are real Debian machines in containers."""
